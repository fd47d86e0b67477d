"""Files of a model: their fingerprint, and what is wrong with them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_models import NO_TOOLS, ask, has_reference, make_tokenizer, parrot, random_model, reply_of, save
from testbed.errors import ModelError, UnknownName, UsageError
from testbed.models import Model, make_model
from testbed.models.hf import HuggingFace
from testbed.models.reference_model import reference_path


def test_the_fingerprint_is_the_contents_and_not_the_place(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "elsewhere")
    mine, theirs = HuggingFace(llama, device="cpu").fingerprint(), HuggingFace(copy, device="cpu").fingerprint()
    assert mine == theirs
    assert str(llama) not in json.dumps(mine)
    assert isinstance(HuggingFace(llama, device="cpu"), Model)


def test_everything_that_changes_an_outcome_changes_the_fingerprint(llama: Path, tmp_path: Path) -> None:
    other = shutil.copytree(llama, tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    retuned = shutil.copytree(llama, tmp_path / "retuned")
    (retuned / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    retold = shutil.copytree(llama, tmp_path / "retold")
    (retold / "chat_template.jinja").write_text(NO_TOOLS)
    made = [HuggingFace(path, device="cpu") for path in (llama, other, retuned, retold)]
    made += [HuggingFace(llama, device="cpu", system="x"), HuggingFace(llama, device="cpu", dtype="bfloat16")]
    prints = [json.dumps(model.fingerprint(), sort_keys=True) for model in made]
    assert all(a != b for a, b in itertools.combinations(prints, 2))


async def test_end_tokens_are_those_of_every_file(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    path = parrot(tmp_path, [*tokenizer.encode("yes"), 7, 8, 9], tokenizer)
    (path / "generation_config.json").write_text('{"eos_token_id": [7]}')
    reply = await reply_of(path, ask())
    assert (reply.finish, reply.usage.generated_tokens) == ("stop", len(tokenizer.encode("yes")) + 1)


@pytest.mark.parametrize("name", ["./no/such/place", "/no/such/place", "no/such/deep/place"])
def test_a_directory_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=r"no model directory.*such") as caught:
        make_model(f"hf:{name}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("offline", [False, True])
def test_a_misspelled_directory_gets_the_one_beside_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    shutil.copytree(llama, tmp_path / "llama")
    (tmp_path / "lamas").mkdir()  # no model
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelError, match=r"Did you mean '.*llama'") as told:
        make_model("hf:lama" if offline else f"hf:{tmp_path}/lama")
    assert ("the Hugging Face Hub could not be reached" in str(told.value)) == offline
    assert "no such model" not in str(told.value)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        HuggingFace(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no weights"):
        HuggingFace(tmp_path)


def test_a_file_in_place_of_a_directory_is_told_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.safetensors' is a file; give the directory"):
        HuggingFace(tmp_path / "model.safetensors")


def test_an_adapter_without_its_base_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"has no config\.json\. It holds an adapter .*merge_and_unload\(\)"):
        HuggingFace(tmp_path)


def truncate(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


def scramble(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"not a model at all" * 100)


def forget_layer(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, path / "model.safetensors", {"format": "pt"})


def add(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    from safetensors.torch import load_file, save_file

    save_file({**load_file(path / "model.safetensors"), **tensors}, path / "model.safetensors", {"format": "pt"})
    return path


def unknown_architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "nosuch"}))


def broken_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def broken_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text('{"version": "1.0"}')


def no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()


async def test_weights_of_another_config_are_named_with_both_shapes(llama: Path, tmp_path: Path) -> None:
    path = shutil.copytree(llama, tmp_path / "mixed")
    config = json.loads((path / "config.json").read_text())
    inner = config["intermediate_size"]
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 2 * inner}))
    wanted = rf"'model\.layers\.0\.mlp\.\w+\.weight' has the shape .*{inner}.*, and config\.json makes it .*{2 * inner}"
    with pytest.raises(ModelError, match=wanted):
        await reply_of(path, ask())


async def test_weights_of_more_layers_than_the_config_has_are_refused_by_name(llama: Path, tmp_path: Path) -> None:
    path = shutil.copytree(llama, tmp_path / "shortened")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    wanted = (
        r"shortened' hold 'model\.layers\.1\.[\w.]+', for which .*config\.json has no place \(9 such tensors in all\)"
    )
    with pytest.raises(ModelError, match=wanted):
        await reply_of(path, ask())


async def test_a_weight_that_the_architecture_does_not_have_is_refused_by_name(llama: Path, tmp_path: Path) -> None:
    path = add(shutil.copytree(llama, tmp_path / "biased"), {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    with pytest.raises(ModelError, match=r"hold 'model\.layers\.0\.self_attn\.q_proj\.bias', .*\(1 such"):
        await reply_of(path, ask())


async def test_what_has_no_say_in_what_a_model_writes_may_stand_beside_its_weights(llama: Path, tmp_path: Path) -> None:
    beside = ("model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.summary.weight", "vision_tower.blocks.0.weight")
    path = add(shutil.copytree(llama, tmp_path / "more"), {name: torch.zeros(4) for name in beside})
    assert (await reply_of(path, ask())).text == (await reply_of(llama, ask())).text


@pytest.mark.parametrize("mask", ["attn.bias", "attn.masked_bias", "attn.causal_mask", "attn.embed_positions"])
async def test_masks_that_older_versions_saved_are_no_weights(tmp_path: Path, mask: str) -> None:
    path = save(random_model("gpt2"), make_tokenizer(), tmp_path / "old")
    before = (await reply_of(path, ask())).text
    add(path, {f"transformer.h.0.{mask}": torch.ones(1)})
    assert (await reply_of(path, ask())).text == before


async def test_a_head_saved_beside_the_embeddings_that_it_is_tied_to_is_no_surplus(tmp_path: Path) -> None:
    made = random_model()
    made.config.tie_word_embeddings = True
    made.tie_weights()
    path = save(made, make_tokenizer(), tmp_path / "tied")
    before = (await reply_of(path, ask())).text
    add(path, {"lm_head.weight": made.get_input_embeddings().weight.detach().clone()})
    assert (await reply_of(path, ask())).text == before


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
async def test_a_file_that_ends_too_soon_is_named(llama: Path, tmp_path: Path, file: str) -> None:
    path = shutil.copytree(llama, tmp_path / "cut")
    (path / file).write_text((path / file).read_text()[:-20])
    with pytest.raises(ModelError, match=rf"{file}' cannot be read: .*line \d+"):
        await reply_of(path, ask())


async def test_a_broken_template_is_told_with_one_full_stop(llama: Path, tmp_path: Path) -> None:
    path = shutil.copytree(llama, tmp_path / "template")
    (path / "chat_template.jinja").write_text("{{ broken")
    with pytest.raises(ModelError, match=r"chat template of .*[^.]\.$"):
        await reply_of(path, ask())


@pytest.mark.parametrize(
    "damage",
    [truncate, scramble, forget_layer, unknown_architecture, broken_config, broken_tokenizer, no_tokenizer],
)
async def test_damaged_files_are_an_error_that_names_the_place(
    llama: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = shutil.copytree(llama, tmp_path / "damaged")
    damage(path)
    with pytest.raises(ModelError, match="damaged"):
        await reply_of(path, ask())


async def test_a_directory_without_a_tokenizer_says_how_to_save_one_there(llama: Path, tmp_path: Path) -> None:
    path = shutil.copytree(llama, tmp_path / "bare")
    no_tokenizer(path)
    saved = r"lacks tokenizer\.json and tokenizer_config\.json\. .*save_pretrained\('.*bare'\)"
    with pytest.raises(ModelError, match=saved):
        await reply_of(path, ask())
    (path / "tokenizer.json").write_text("{")  # there is one, which is broken: that is what is told
    with pytest.raises(ModelError, match=r"cannot be loaded from '.*bare': (?!.*lacks)"):
        await reply_of(path, ask())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float23"}, UnknownName, "Did you mean 'float32'"),
        ({"batch": 0}, UsageError, "batch must be"),
        ({"threads": 1.5}, UsageError, "threads must be"),
    ],
)
def test_bad_options_are_refused(llama: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HuggingFace(llama, **options)


async def test_a_device_that_is_not_there_is_named(llama: Path) -> None:
    with pytest.raises(UsageError, match="device 'cuda:77' was asked for"):
        await reply_of_device(llama, "cuda:77")
    with pytest.raises(UnknownName, match="Did you mean 'cpu'"):
        await reply_of_device(llama, "cpuu")


async def reply_of_device(path: Path, device: str) -> None:
    await HuggingFace(path, device=device).start()


@has_reference
def test_the_reference_model_is_found_in_the_package() -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in reference_path().iterdir()}
