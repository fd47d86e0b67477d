"""The reference model's training: transcripts, tokens, the run itself, and the model that ships."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
SCRIPTS = Path(__file__).parents[1] / "scripts"
SHIPPED = Path(__file__).parents[1] / "testbed" / "models" / "reference"
sys.path.insert(0, str(SCRIPTS))  # The scripts are no package: they import one another from their folder, as when run.

import reference_data as data  # noqa: E402
import train_reference  # noqa: E402
from reference_network import Encoder, Recipe  # noqa: E402
from reference_tokenizer import make_tokenizer  # noqa: E402

from testbed.envs import arithmetic  # noqa: E402
from testbed.envs.world import make_world  # noqa: E402

SETTINGS = data.Settings(make_world(7))
TINY = Recipe(steps=6, batch=6, layers=1, width=32, inner=64, heads=2, warmup=2)


@pytest.fixture(scope="module")
def some():
    return data.transcripts(1, 0, 1500, SETTINGS)


@pytest.fixture(scope="module")
def tokenizer(some):
    return make_tokenizer(transcript.render() for transcript in some)


def offered(transcript):
    return [{"type": "function", "function": {"name": name}} for name in transcript.tools] or None


def test_transcripts_depend_on_seed_and_step_alone(some):
    assert data.transcripts(1, 0, 1500, SETTINGS) == some
    assert data.transcripts(1, 1, 9, SETTINGS) != some[:9]
    assert data.transcripts(2, 0, 9, SETTINGS) != some[:9]


def test_no_transcript_names_a_document_only_entity_or_value(some):
    hidden = {name for fact in SETTINGS.about.document_only for name in (fact.entity, fact.value) if name.isalpha()}
    assert not {word for row in some for word in re.findall(r"[A-Z][a-z]+", row.render())} & hidden


def test_no_transcript_asks_for_a_held_out_problem(some):
    for row in some:
        for left, operator, right in re.findall(r"What is (\d+)([+*])(\d+)", row.render()):
            assert not arithmetic.is_held_out(arithmetic.Problem(int(left), operator, int(right)))


def test_only_tools_on_offer_are_called(some):
    for row in some:
        calls = [text for kind, text in row.segments() if kind == "own" and "<tool_call>" in text]
        names = {json.loads(re.search(r"<tool_call>(.*)</tool_call>", text)[1])["name"] for text in calls}
        assert names <= set(row.tools)


def test_every_transcript_ends_in_an_answer(some):
    assert all(re.search(r"<answer>[^<>]+</answer>$", row.render()) for row in some)


def test_all_kinds_of_transcripts_occur(some):
    texts = [row.render() for row in some]
    for sign in (
        "error: ",
        "(no output)",
        "print(",
        "The tool budget is spent",
        "<answer>unknown",
        "<|end|>",
        "together?",
    ):
        assert any(sign in text for text in texts), sign


def test_ablation_restates_nothing():
    settings = data.Settings(make_world(7), quote=False)
    for row in data.transcripts(1, 0, 300, settings):
        own = [text for kind, text in row.segments() if kind == "own"]
        assert all(text.startswith(("<|assistant|><tool_call>", "<|assistant|><answer>")) for text in own)


def test_chat_template_renders_the_training_text(some, tokenizer):
    for row in some[:300]:
        text = tokenizer.apply_chat_template(row.messages, tools=offered(row), tokenize=False)
        assert text == row.render()


def test_each_turns_prompt_continues_the_last_prompt_and_reply_token_by_token(some, tokenizer):
    for row in some[:300]:
        before: list[int] = []
        for index, message in enumerate(row.messages):
            if message["role"] != "assistant":
                continue
            prompt = tokenizer.apply_chat_template(
                row.messages[:index], tools=offered(row), add_generation_prompt=True, return_dict=False
            )
            assert prompt[: len(before)] == before
            before = prompt + tokenizer(message["content"], add_special_tokens=False)["input_ids"]


def test_tokens_decode_to_the_text(some, tokenizer):
    for row in some[:300]:
        assert tokenizer.decode(tokenizer(row.render(), add_special_tokens=False)["input_ids"]) == row.render()


def test_unforeseen_text_survives_the_tokenizer(tokenizer):
    text = 'Ünïcode — 東京 😀\n\ttabs; "quotes", {braces} and QWERTZ'
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_loss_falls_on_own_turns_and_tool_results_only(tokenizer):
    encoder = Encoder(tokenizer, SETTINGS, TINY)
    first, _ = TINY.environment_weight
    for ids, weights in encoder.rows(0):
        own = tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight == 1])
        text = tokenizer.decode(ids)
        assert set(weights) <= {0.0, first, 1.0}
        assert own.endswith("</answer>")
        assert "<|user|>" not in own
        assert (first in weights) == ("<tool_result>" in text)


def test_batches_hold_every_row_once(tokenizer):
    encoder = Encoder(tokenizer, SETTINGS, Recipe(batch=50))
    rows = sorted(ids for ids, _ in encoder.rows(3))
    batched = sorted([token for token in row if token] for ids, _ in encoder.batches(3) for row in ids.tolist())
    assert rows == batched


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    straight = train_reference.Run(TINY, tmp_path, bf16=False)
    straight.train(None, 0, log_every=3)
    half = train_reference.Run(TINY, tmp_path, bf16=False)
    for _ in range(3):
        half.advance()
    half.checkpoint(tmp_path / "state.pt")
    resumed = train_reference.Run(TINY, tmp_path, bf16=False)
    resumed.load(tmp_path / "state.pt")
    resumed.train(None, 0, log_every=3)
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train_reference.Run(TINY, tmp_path, bf16=False).checkpoint(tmp_path / "state.pt")
    other = train_reference.Run(train_reference.replace(TINY, seed=1), tmp_path, bf16=False)
    with pytest.raises(SystemExit, match="another recipe"):
        other.load(tmp_path / "state.pt")


@pytest.mark.slow
def test_smoke_training_learns_and_its_files_load(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    command = [sys.executable, str(SCRIPTS / "train_reference.py"), "--smoke", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    curve = json.loads((tmp_path / "training.json").read_text())["curve"]
    assert curve[-1]["own"] < 0.6 * curve[0]["own"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 27+48?"}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > prompt["input_ids"].shape[1]


def test_shipped_folder_is_small_and_complete():
    names = {file.name for file in SHIPPED.iterdir()}
    needed = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "chat_template.jinja", "training.json", "MODEL_CARD.md"}  # fmt: skip
    assert needed <= names
    assert sum(file.stat().st_size for file in SHIPPED.iterdir() if file.is_file()) < 8 * 2**20


def test_shipped_model_was_trained_by_the_recipe_as_it_stands():
    recorded = json.loads((SHIPPED / "training.json").read_text())
    current = json.loads(json.dumps(train_reference.asdict(Recipe(seed=recorded["recipe"]["seed"]))))
    assert recorded["recipe"] == current
    assert recorded["steps_taken"] == current["steps"]


@pytest.mark.slow
def test_shipped_model_reads_documents_that_it_never_saw():
    from evaluate_reference import questions
    from reference_play import Corpus, Player

    player = Player(SHIPPED, Corpus(SETTINGS.about.documents()))
    for tool in ("search", "retrieve"):
        row = player.play(questions("document", 30), (tool,), samples=8)
        assert row["recall"] > 0.95
        assert row["reach@1"] > 0.9
    assert player.play(questions("document", 30), (), samples=8)["reach@1"] < 0.02


@pytest.mark.slow
def test_early_checkpoint_is_worse_when_useless_tools_are_offered():
    from evaluate_reference import ALL, questions
    from reference_play import Corpus, Player

    player = Player(Path(__file__).parent / "fixtures" / "reference_early", Corpus(SETTINGS.about.documents()))
    tasks = questions("known", 20, "head")
    bare = player.play(tasks, (), samples=16)["reach@1"]
    assert bare - player.play(tasks, ALL, samples=16, inert=True)["reach@1"] > 0.2
