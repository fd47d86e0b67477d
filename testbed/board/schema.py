"""The board's tables, which stand beside the store's in one database.

An entry's tasks, arms and attempts are the store's own: a run named `entry_run`, whose arms have hashes of their own
for every entry (`entry_arm`). Attempts are content-addressed, and the content of an upload is what its author says:
without that, a forged attempt would take the place of an honest one of the same configuration.
"""

from __future__ import annotations

import sqlalchemy as sa

from testbed.types import digest

board_schema = sa.MetaData()

ACCEPTED = ("verified", "partly")  # states of entries that have results
WITHDRAWN, REPLACED = "withdrawn", "replaced"  # of those that had some, and whose author took them back

boards = sa.Table(
    "boards",
    board_schema,
    sa.Column("slug", sa.String(64), primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),  # canonical JSON of the board's file: what is frozen
    sa.Column("hash", sa.String(32), nullable=False),  # of the spec and the tasks' hashes
    sa.Column("private", sa.Boolean, nullable=False),  # tasks are served, never shown
    sa.Column("created", sa.String, nullable=False),
)
board_tasks = sa.Table(
    "board_tasks",
    board_schema,
    sa.Column("board", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task", sa.String(32), nullable=False),  # of the store's tasks
    sa.UniqueConstraint("board", "task"),
    sa.Index("board_tasks_by_task", "task"),
)
accounts = sa.Table(
    "accounts",
    board_schema,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created", sa.String, nullable=False),
)
tokens = sa.Table(
    "tokens",
    board_schema,
    sa.Column("id", sa.String(16), primary_key=True),  # the token's public part
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("hash", sa.String, nullable=False),  # argon2 of its secret part
    sa.Column("scopes", sa.String, nullable=False),  # "read", "submit", "admin", separated by spaces
    sa.Column("created", sa.String, nullable=False),
    sa.Column("expires", sa.String),
    sa.Column("revoked", sa.String),
)
audit = sa.Table(
    "audit",
    board_schema,
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("account", sa.String(64), nullable=False),  # "" for the server's own doings
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON; never a secret
    sa.Index("audit_by_subject", "subject", "action"),
)
uploads = sa.Table(
    "uploads",
    board_schema,
    sa.Column("id", sa.String(32), primary_key=True),  # of board, account and content: sending again changes nothing
    sa.Column("board", sa.String(64), nullable=False),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("content", sa.String(64), nullable=False),  # SHA-256 of the whole bundle
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("chunks", sa.Text, nullable=False),  # JSON: SHA-256 of each chunk
    sa.Column("state", sa.String(16), nullable=False),  # "open", "complete", then its entry's state
    sa.Column("created", sa.String, nullable=False),
)
upload_chunks = sa.Table(
    "upload_chunks",
    board_schema,
    sa.Column("upload", sa.String(32), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
entries = sa.Table(
    "entries",
    board_schema,
    sa.Column("id", sa.String(32), primary_key=True),  # the upload's, or the remote entry's
    sa.Column("board", sa.String(64), nullable=False),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("title", sa.Text, nullable=False),  # JSON text
    sa.Column("kind", sa.String(16), nullable=False),  # "submitted" or "remote"
    sa.Column("state", sa.String(16), nullable=False),  # "waiting", "rejected", `ACCEPTED`, `WITHDRAWN`, `REPLACED`
    sa.Column("reasons", sa.Text, nullable=False),  # JSON: [{"check", "level": "ok|unchecked|wrong", "text"}]
    sa.Column("manifest", sa.Text, nullable=False),  # JSON: what its author says of it
    sa.Column("created", sa.String, nullable=False),
    sa.Column("decided", sa.String),
    sa.Index("entries_by_board", "board", "state"),
)
# What the pages show of an entry, computed once from attempts that the server checked; never what its author says.
entry_arms = sa.Table(
    "entry_arms",
    board_schema,
    sa.Column("entry", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),  # JSON text
    sa.Column("arm", sa.String(32), nullable=False),  # of the store's arms
    sa.Column("model", sa.Text, nullable=False),  # JSON text
    sa.Column("tools", sa.Text, nullable=False),  # JSON: sorted names; [] for the bare arm
    sa.Column("control", sa.String(16), nullable=False),
    sa.Column("bare", sa.Boolean, nullable=False),
    sa.Column("reach", sa.Double),  # at the board's operating spend, mean over tasks; NULL where not known
    sa.Column("gain", sa.Double),
    sa.Column("creation", sa.Double),
    sa.Column("tokens", sa.Double),  # generated, mean of an attempt
    sa.Column("usd", sa.Double),
    sa.Column("figures", sa.Text, nullable=False),  # JSON: every figure that the pages show of the arm, with limits
    sa.Column("n", sa.LargeBinary, nullable=False),  # scored attempts by the board's tasks, little-endian int32
    sa.Column("c", sa.LargeBinary, nullable=False),  # successes likewise
    sa.Index("entry_arms_by_arm", "arm"),
)
# Of accepted entries that were sent: by these an entry with the same attempts is found (`board.verify.prints`).
entry_prints = sa.Table(
    "entry_prints",
    board_schema,
    sa.Column("entry", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),  # sorted big-endian uint64
)
entry_reports = sa.Table(
    "entry_reports",
    board_schema,
    sa.Column("entry", sa.String(32), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),  # zstd of the analysis as JSON (`Analysis.as_dict`)
    sa.Column("charts", sa.LargeBinary, nullable=False),  # zstd of JSON, see `board.chart_pictures.pictures`
)
rankings = sa.Table(
    "rankings",
    board_schema,
    sa.Column("board", sa.String(64), primary_key=True),
    sa.Column("by", sa.String(16), primary_key=True),  # "reach" or "gain"
    sa.Column("entry", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),  # of the entry's arm
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("low", sa.Integer, nullable=False),  # best rank that the data allow
    sa.Column("high", sa.Integer, nullable=False),  # worst
    sa.Index("rankings_in_order", "board", "by", "low", "value"),
)
# What the pages show of all of a board's entries together, computed whenever one is added.
board_summaries = sa.Table(
    "board_summaries",
    board_schema,
    sa.Column("board", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),  # "facets", "pareto", "mechanisms" or "tasks"
    sa.Column("data", sa.LargeBinary, nullable=False),  # zstd of JSON
)
# Attempts that are made against the server: the tasks, tools and graders are here, the agent is elsewhere.
remote_entries = sa.Table(
    "remote_entries",
    board_schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("board", sa.String(64), nullable=False),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("title", sa.Text, nullable=False),  # JSON text
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # "open" or "closed"
    sa.Column("created", sa.String, nullable=False),
)
sessions = sa.Table(
    "sessions",
    board_schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("entry", sa.String(32), nullable=False),
    sa.Column("arm", sa.String, nullable=False),  # its name among the board's arms
    sa.Column("task", sa.String(32), nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # "open", "done" or "lost"
    sa.Column("steps", sa.Text, nullable=False),  # JSON: actions and what was answered, for who comes back
    sa.Column("created", sa.String, nullable=False),
    sa.UniqueConstraint("entry", "arm", "task", "sample"),
)


def entry_run(entry: str) -> str:
    """Name of the store's run that holds an entry's attempts."""
    return f"entry-{entry}"


def entry_arm(entry: str, arm: str) -> str:
    """Hash of an entry's arm in the store, from the hash that its author's run gives it."""
    return digest([entry, arm])
