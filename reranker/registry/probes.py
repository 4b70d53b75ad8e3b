"""The fixed inputs that the gate puts to every model, in both languages."""

from __future__ import annotations

ORDERED = "The fitting product comes before the other"

# Query, a product that fits, one that does not; none needs more than knowing what things are.
PROBES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "en": (
        ("water bottle", "stainless steel water bottle 750 ml", "wooden coffee table"),
        ("running shoes for men", "men's lightweight running shoes", "ceramic flower pot"),
        ("wireless keyboard", "bluetooth wireless keyboard, compact", "cotton bath towel set"),
        ("dog bed", "soft washable bed for large dogs", "hdmi cable 2 m"),
        ("desk lamp", "LED desk lamp with dimmer", "garden hose 20 m"),
        ("phone case", "silicone case for phone, black", "electric kettle 1.7 l"),
        ("hair dryer", "ionic hair dryer 2000 w", "board game for four players"),
        ("rain jacket", "waterproof rain jacket with hood", "usb microphone"),
    ),
    "zh": (
        ("保温杯", "不锈钢保温杯 500 毫升", "实木书桌"),
        ("男士跑步鞋", "男款轻便透气跑步鞋", "陶瓷花盆"),
        ("无线键盘", "蓝牙无线键盘 静音", "纯棉浴巾套装"),
        ("狗窝", "大型犬可拆洗狗窝", "高清视频线 2 米"),
        ("台灯", "护眼台灯 可调光", "花园水管 20 米"),
        ("手机壳", "硅胶手机壳 黑色", "电热水壶 1.7 升"),
        ("吹风机", "负离子吹风机 大功率", "四人桌游"),
        ("雨衣", "带帽防水雨衣", "麦克风"),
    ),
}

QUERIES = ("steel bottle without straw", "适合送爸爸的保温杯 under 50")

# Of many lengths, so that they fall into several batches, each with unlike neighbours.
TEXTS: tuple[str, ...] = (
    "x",
    "杯",
    *(text for probes in PROBES.values() for _, *pair in probes[:4] for text in pair),
    *("Steel bottle with straw, leak-proof lid and carrying loop. " * times for times in (1, 2, 4, 8)),
    *("不锈钢保温杯，带茶隔，密封不漏，长效保温。" * times for times in (1, 2, 4, 8)),
    "Garden hose 20 m, brass fittings, UV-resistant " * 3,
    "USB-C 数据线 2 米 braided, 快充",
)

EDGES = {
    "empty": "",
    "white space": " \t\n　",
    "one mark": "!",
    "emoji and controls": "🎁\u200d\x07",
    "10,000 letters": "steel bottle " * 770,
    "10,000 characters without a space": "保温杯" * 3334,
    "one word of 10,000 letters": "x" * 10_000,
}
