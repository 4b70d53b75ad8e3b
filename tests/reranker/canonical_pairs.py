"""Fixed queries with fixed products, for a reader's eye: each product's name says why it is there."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Product(msgspec.Struct, frozen=True):
    """One hit: its name here, its first-stage score and the fields that recipes and features read."""

    name: str
    first_stage: float
    fields: dict[str, Any]


class Query(msgspec.Struct, frozen=True):
    name: str
    language: Literal["en", "zh", "mixed"]
    text: str
    products: tuple[Product, ...]


def _product(name: str, first_stage: float, title: str, **others: Any) -> Product:
    return Product(name, first_stage, {"title": title, **others})


_LONG = "Leather belt, full grain, brass buckle, stitched by hand, in a box with a card and a ribbon, " * 12

QUERIES = (
    Query(
        "exclusion",
        "en",
        "water bottle without straw",
        (
            _product("with straw", 9.1, "Steel water bottle with straw, 750 ml", brand="Brookfern", price=24.0),
            _product("straw lid", 8.8, "Replacement straw lid for water bottle", brand="Brookfern", price=9.5),
            _product("plain", 8.0, "Steel water bottle, screw cap, 750 ml", brand="Brookfern", price=22.0),
            _product("says without", 7.2, "Kids water bottle without straw, 500 ml", brand="Kitewood", color="Blue"),
            _product("other thing", 2.5, "Oak coffee table", category=["Home", "Furniture"], price=129.0),
        ),
    ),
    Query(
        "price",
        "en",
        "headphones under 80",
        (
            _product("too dear", 6.4, "Wireless headphones with noise cancelling", category=["Audio"], price=149.0),
            _product("cheap", 6.1, "Wireless headphones, over-ear, foldable", category=["Audio"], price=59.0),
            _product("accessory", 5.9, "Ear cushions for headphones, one pair", category=["Audio parts"], price=12.0),
            _product("no price", 5.2, "Wired headphones, 3.5 mm plug", category=["Audio"]),
        ),
    ),
    Query(
        "color and audience",
        "en",
        "red running shoes for women",
        (
            _product("men", 7.7, "Men's running shoes, breathable mesh", color="Red", brand="Fleetmoor", price=69.0),
            _product(
                "blue", 7.5, "Women's running shoes, breathable mesh", color="Blue", brand="Fleetmoor", price=69.0
            ),
            _product(
                "right", 7.3, "Women's running shoes, breathable mesh", color="Red", brand="Fleetmoor", price=69.0
            ),
            _product("sandals", 4.0, "Women's sandals with cork sole", color="Red", brand="Duneholm", price=39.0),
        ),
    ),
    Query(
        "brand",
        "en",
        "Veltaro desk lamp",
        (
            _product("bulb for it", 8.3, "Replacement bulb for Veltaro desk lamp, 5 W", brand="Onlume", price=8.0),
            _product(
                "other brand", 7.9, "LED desk lamp with dimmer", brand="Luxmere", bullets=["USB port"], price=35.0
            ),
            _product("right", 7.6, "LED desk lamp with dimmer", brand="Veltaro", bullets=["USB port"], price=35.0),
            _product("same brand", 6.0, "Arc floor lamp, marble foot", brand="Veltaro", color="Gold", price=140.0),
        ),
    ),
    Query(
        "number",
        "en",
        "hdmi cable 2 m",
        (
            _product("5 m", 6.6, "HDMI cable 5 m, 4K 60 Hz, braided", color="Black", category=["Cables"], price=15.0),
            _product("2 m", 6.5, "HDMI cable 2 m, 4K 60 Hz, braided", color="Black", category=["Cables"], price=9.0),
            _product("adapter", 4.9, "USB-C to HDMI adapter", color="Gray", category=["Adapters"], price=19.0),
            _product("hose", 2.0, "Garden hose 2 m, brass fittings", color="Green", category=["Garden"], price=17.0),
        ),
    ),
    Query(
        "long query",  # cut by both models
        "en",
        "stainless steel insulated food jar with a folding spoon and a cup as its lid, leak proof, for hot soup at "
        "school or at work, 500 ml, wide mouth that is easy to clean, sage green, no plastic smell please",
        (
            _product("right", 9.9, "Insulated food jar with folding spoon, 500 ml", color="Sage green", price=27.0),
            _product("no spoon", 9.0, "Insulated food jar, wide mouth, 500 ml", color="Sage green", price=24.0),
            _product("spoon", 6.1, "Folding spoon, stainless steel", price=4.0),
        ),
    ),
    Query(
        "配件",
        "zh",
        "保温杯",
        (
            _product("杯套", 7.0, "保温杯杯套 加厚防摔 适用500毫升", brand="禾屿", color="灰色", price=15.0),
            _product("杯盖", 6.8, "保温杯盖 替换配件 通用", brand="禾屿", color="黑色", price=12.0),
            _product("保温杯", 6.5, "316不锈钢保温杯 500毫升", brand="暖砚", color="黑色", price=89.0),
            _product("玻璃杯", 4.1, "高硼硅玻璃杯 双层 300毫升", brand="暖砚", color="透明", price=39.0),
            _product("书桌", 1.0, "实木书桌 1.2米", category=["家具", "书桌"], price=699.0),
        ),
    ),
    Query(
        "价格",
        "zh",
        "100元以内的护眼台灯",
        (
            _product("太贵", 8.4, "护眼台灯 国AA级 可调光", brand="光栖", color="白色", price=259.0),
            _product("合适", 8.2, "护眼台灯 学生宿舍 可调光", brand="光栖", color="白色", price=79.0),
            _product("正好", 7.9, "护眼台灯 夹子式", brand="明渡", color="白色", price=100.0),
            _product("灯泡", 5.5, "台灯专用灯泡 5瓦", brand="明渡", price=9.9),
        ),
    ),
    Query(
        "颜色和人",
        "zh",
        "黑色双肩包男士",
        (
            _product("白色", 6.9, "男士双肩包 商务通勤 防水", brand="山白行", color="白色", price=169.0),
            _product("女士", 6.7, "女士双肩包 轻便 通勤", brand="山白行", color="黑色", price=169.0),
            _product("合适", 6.6, "男士双肩包 商务通勤 防水", brand="山白行", color="黑色", price=169.0),
            _product("胸包", 5.0, "男士胸包 斜挎 防泼水", brand="山白行", color="黑色", price=89.0),
        ),
    ),
    Query(
        "full width",  # the same words in half-width and full-width letters
        "mixed",
        "USB-C 数据线 2米 快充",
        (
            _product("full", 7.4, "ＵＳＢ－Ｃ　数据线　２米　快充", brand="联栖", color="黑色", price=29.0),
            _product("half", 7.3, "USB-C 数据线 2米 快充", brand="联栖", color="黑色", price=29.0),
            _product(
                "English", 6.0, "USB-C cable 2 m, fast charging, braided", brand="Corvane", color="Black", price=9.0
            ),
            _product("charger", 5.8, "65W 快充 充电器 USB-C", brand="联栖", color="白色", price=99.0),
        ),
    ),
    Query(
        "edges",
        "mixed",
        "gift for dad 送爸爸的礼物 🎁",
        (
            _product("too long", 6.0, _LONG, brand="Harrowick", bullets=[_LONG], price=49.0),
            # What differs stands where no model reads: tokens, vector, cosine and logit are those above.
            _product("too long, too", 5.9, _LONG * 2 + "保温杯", brand="Harrowick", bullets=[_LONG], price=49.0),
            _product("emoji", 5.0, "🎁🎉👔", bullets=["送爸爸的礼物", "tie and card"], price=29.0),
            _product("empty title", 4.0, "", brand="暖砚", bullets=["送长辈的礼物"], category=["礼品"], price=88.0),
            Product("nothing", 3.0, {}),
        ),
    ),
)
