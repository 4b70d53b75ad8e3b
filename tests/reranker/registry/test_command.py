"""`shelfrank models`: what each command prints, does and exits with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from indexer import terminal
from indexer.errors import BundleError, ShelfrankError, UsageError
from indexer.settings import Models
from reranker import bundle as bundles
from reranker.bundle import Bundle, write_description
from reranker.doctor import doctor
from reranker.encoder import Encoder
from reranker.registry.command import models
from reranker.scoring import CrossEncoder

Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("few_probes")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models 模型"


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str | Path, width: int = 120, **environ: str) -> Result:
        # Not by COLUMNS, of which rich takes the value that it saw when it was imported.
        monkeypatch.setattr(terminal.out, "width", width)
        runner = CliRunner(env={"SHELFRANK_MODELS_HOME": str(home), **environ})
        result = runner.invoke(models, [str(each) for each in arguments], standalone_mode=False)
        if result.exception and not isinstance(result.exception, (ShelfrankError, SystemExit)):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def candidate(tmp_path: Path) -> Bundle:
    """The shipped reranker under another id: its weights end in a byte that means nothing."""
    return other(tmp_path / "candidate")


def other(folder: Path, **changes: Any) -> Bundle:
    shutil.copytree(bundles.SHIPPED / "reranker", folder)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x82\x01\x00")  # an empty field that no reader knows
    return write_description(folder, msgspec.structs.replace(bundles.read_description(folder), **changes))


def test_what_ships_can_be_kept_for_the_day_when_another_version_ships_something_else(run: Run, home: Path) -> None:
    settings = Models(home=str(home))
    shipped = bundles.load("", "encoder")
    assert json.loads(run("promote", shipped.id, "--json").stdout)["promoted"]
    assert Encoder.load(settings).bundle.origin == "registry"
    assert Encoder.load(settings).bundle_id == shipped.id
    assert run("rollback", "--kind", "encoder", "--to", "shipped").exit_code == 0
    assert Encoder.load(settings).bundle.origin == "shipped"


def test_a_promoted_bundle_is_the_one_that_is_used_until_it_is_rolled_back(
    run: Run, candidate: Bundle, home: Path
) -> None:
    answer = json.loads(run("promote", candidate.folder, "--json").stdout)
    assert answer["promoted"]
    assert answer["bundle"] == candidate.id
    assert "not compared" in answer["warnings"][0]
    assert CrossEncoder.load(Models(home=str(home))).bundle_id == candidate.id
    listed = json.loads(run("list", "--json").stdout)["bundles"]
    assert [(each["id"], each["origin"]) for each in listed if each["current"] and each["kind"] == "reranker"] == [
        (candidate.id, "registry")
    ]
    assert {each["base_licence"] for each in listed} == {"MIT"}
    assert json.loads(run("rollback", "--json").stdout) == {"kind": "reranker", "current": "shipped", "previous": []}
    assert CrossEncoder.load(Models(home=str(home))).bundle.origin == "shipped"
    assert isinstance(run("rollback").exception, UsageError)


def test_doctor_says_where_a_bundle_comes_from(run: Run, candidate: Bundle, home: Path) -> None:
    def details(**environ: str) -> dict[str, str]:
        environ = {"SHELFRANK_MODELS_HOME": str(home), "OPENSEARCH_URL": "http://127.0.0.1:9", **environ}
        answer = json.loads(CliRunner(env=environ).invoke(doctor, ["--json"]).stdout)
        return {check["name"]: check["detail"] for check in answer["checks"]}

    run("promote", candidate.folder)
    found = details()
    assert f"{candidate.id} (registry)" in found["reranker"]
    assert f"{Encoder.load().bundle_id} (shipped)" in found["encoder"]
    assert "(setting)" in details(SHELFRANK_MODELS_RERANKER=str(candidate.folder))["reranker"]
    shutil.rmtree(home / "reranker" / candidate.id)
    assert "shelfrank models rollback" in details()["reranker"]


def test_a_bundle_that_fails_is_refused_with_reasons_and_code_1(run: Run, tmp_path: Path, home: Path) -> None:
    bad = other(tmp_path / "bad", quality={"torch_parity_logits": 2.0, "logit_range": 5.0})
    result = run("promote", bad.folder, "--json")
    assert json.loads(result.stdout)["promoted"] is False
    assert isinstance(result.exception, ShelfrankError)
    assert result.exception.exit_code == 1
    assert "parity: logits from the trained model, of a range of 5: 2 (limit 0.25)" in str(result.exception)
    assert "--force REASON" in str(result.exception)
    assert not (home / "reranker").exists()


def test_a_forced_promotion_keeps_its_reason(run: Run, tmp_path: Path) -> None:
    bad = other(tmp_path / "bad", quality={"torch_parity_logits": 2.0, "logit_range": 5.0})
    assert "needs a reason" in str(run("promote", bad.folder, "--force", " ").exception)
    assert run("promote", bad.folder, "--force", "换季 sale starts tonight").exit_code == 0
    answer = json.loads(run("show", bad.id, "--json").stdout)
    assert answer["current"]
    assert answer["log"][0]["forced"] == "换季 sale starts tonight"
    assert answer["log"][0]["failed"] == ["parity"]
    assert "forced over parity: 换季 sale starts tonight" in " ".join(run("show", bad.id).stdout.split())


def test_no_reason_promotes_a_corrupt_bundle(run: Run, candidate: Bundle) -> None:
    (candidate.folder / "tokenizer.json").write_text("{}", "utf-8")
    result = run("promote", candidate.folder, "--force", "in a hurry")
    assert "tokenizer.json is corrupt" in str(result.exception)
    assert "Make it again" in str(result.exception)


def test_a_new_recipe_says_that_stored_token_ids_are_passed_over(run: Run, tmp_path: Path) -> None:
    recipe = bundles.read_description(bundles.SHIPPED / "reranker").recipe
    changed = other(tmp_path / "new", recipe=msgspec.structs.replace(recipe, max_tokens=80))
    told = json.loads(run("promote", changed.folder, "--json").stdout)["notes"]
    assert any("`shelfrank ingest` again" in line for line in told)
    same = other(tmp_path / "same", name="same", recipe=msgspec.structs.replace(recipe, max_tokens=80))
    assert json.loads(run("promote", same.folder, "--json").stdout)["notes"] == []


def test_a_setting_that_hides_the_registry_is_told(run: Run, candidate: Bundle) -> None:
    result = run("promote", candidate.folder, SHELFRANK_MODELS_RERANKER=str(candidate.folder))
    assert "SHELFRANK_MODELS_RERANKER is" in " ".join(result.stderr.split())
    assert "not the registry's" in " ".join(result.stderr.split())


def test_verify_looks_at_what_is_used_and_at_what_is_named(run: Run, candidate: Bundle) -> None:
    answer = json.loads(run("verify", "--kind", "reranker", "--json").stdout)
    assert [each["bundle"] for each in answer["bundles"]] == [bundles.load("", "reranker", "/nowhere").id]
    assert answer["passed"]
    (candidate.folder / "tokenizer.json").unlink()
    result = run("verify", candidate.folder, "--json")
    assert json.loads(result.stdout)["passed"] is False
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "tokenizer.json" in run("verify", candidate.folder, width=300).stdout
    assert "--kind says encoder" in str(run("verify", candidate.folder, "--kind", "encoder").exception)


def test_show_prints_the_card(run: Run) -> None:
    shown = " ".join(run("show", bundles.SHIPPED / "reranker").stdout.split())
    about = bundles.read_description(bundles.SHIPPED / "reranker")
    tokens, seen = f"{about.recipe.max_tokens} tokens a text", f"{len(about.seen)} judged queries"
    for part in (about.base_model, about.base_licence, tokens, seen):
        assert part in shown
    answer = json.loads(run("show", bundles.SHIPPED / "encoder", "--json").stdout)
    assert (answer["kind"], answer["origin"], answer["current"]) == ("encoder", "shipped", True)
    assert answer["dimension"] == 384
    assert isinstance(run("show", "no-such-bundle").exception, BundleError)


def test_the_list_shows_whole_ids_on_a_narrow_terminal(run: Run) -> None:
    shown = run("list", width=80).stdout
    for kind in ("encoder", "reranker"):
        assert bundles.load("", kind, "/nowhere").id in shown  # type: ignore[arg-type]


def test_the_list_goes_on_where_current_cannot_be_read(run: Run, candidate: Bundle, home: Path) -> None:
    run("promote", candidate.folder)
    (home / "reranker" / "current").write_text("?", "utf-8")
    answer = json.loads(run("list", "--json").stdout)
    assert candidate.id in {each["id"] for each in answer["bundles"]}
    assert "rollback --kind reranker --to ID" in answer["faults"][0]
    assert "cannot be read" in " ".join(run("list").stderr.split())
    assert run("rollback", "--to", candidate.id).exception is None
    assert json.loads(run("list", "--json").stdout)["faults"] == []


def test_a_fallback_is_told_where_it_was_allowed(run: Run) -> None:
    environ = {"SHELFRANK_MODELS_PROVIDER": "cuda", "SHELFRANK_MODELS_ALLOW_FALLBACK": "true"}
    assert "CUDAExecutionProvider is not in" in run("verify", "--kind", "reranker", "--json", **environ).stdout


def test_clean_says_what_went(run: Run, candidate: Bundle) -> None:
    run("promote", candidate.folder)
    assert json.loads(run("clean", "--keep", "0", "--json").stdout)["removed"] == {
        "encoder": [],
        "reranker": [],
        "reranker-en": [],
    }
    run("rollback")
    assert candidate.id in run("clean", "--keep", "0").stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index", "shop"], "needs --index, --queries and --qrels"),
        (["--split", "dev"], "Give --index, --queries and --qrels"),
        (["--candidate-index", "shop-2"], "Give --index, --queries and --qrels"),
    ],
)
def test_half_a_comparison_is_wrong_use(run: Run, candidate: Bundle, flags: list[str], message: str) -> None:
    result = run("promote", candidate.folder, *flags)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


@pytest.mark.parametrize("name", sorted(models.commands))
def test_every_command_shows_an_example(run: Run, name: str) -> None:
    assert f"shelfrank models {name}" in run(name, "--help").stdout
