"""The JavaScript client of OpenSearch, as npm has it, pointed at the gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reranker.serving.service import Running

CLIENT = "@opensearch-project/opensearch@3.9.0"
SCRIPT = """
const { Client } = require('@opensearch-project/opensearch');
const [node, index] = process.argv.slice(2);
const client = new Client({ node });
(async () => {
  const info = await client.info();
  const body = { query: { match: { title: 'bottle without straw' } }, size: 3 };
  const found = await client.search({ index, body });
  const many = await client.msearch({ body: [{ index }, body, { index }, { query: { match: { title: '保温杯' } } }] });
  let refused = 0;
  try { await client.index({ index, body: {} }); } catch (error) { refused = error.statusCode; }
  const count = await client.count({ index });
  const exists = await client.indices.exists({ index });
  console.log(JSON.stringify({
    version: info.body.version.number, hits: found.body.hits.hits.map(hit => hit._id),
    status: found.body.ext.shelfrank.status, many: many.body.responses.map(each => each.ext.shelfrank.status),
    first: many.body.responses[0].hits.hits.map(hit => hit._id), refused, count: count.body.count, exists: exists.body,
  }));
})();
"""


@pytest.mark.node
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_javascript_client_gets_reranked_hits(service: Running, shop: str, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}", "utf-8")
    (tmp_path / "search.js").write_text(SCRIPT, "utf-8")
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", CLIENT]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    command = ["node", "search.js", service.url, shop]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    body = {"query": {"match": {"title": "bottle without straw"}}, "size": 3}
    assert (
        answer["hits"] == answer["first"] == [hit["_id"] for hit in service.search(shop, body).json()["hits"]["hits"]]
    )
    assert answer["status"] == "applied"
    assert answer["many"] == ["applied", "applied"]
    assert answer["refused"] == 403
    assert answer["count"] > 1000
    assert answer["exists"] is True
