"""What `check_leakage` found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .signal_fingerprint import SAME_SIMILARITY

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = 5


@dataclass(frozen=True)
class RecordMatch:
    """A record of one side and its partner on the other.

    Args:
        one_split, other_split (`str`): the splits that they are in, empty where there are none.
        one_row, other_row (`int`): their rows in these splits.
        one_id, other_id (`str`): their names.
        by (`tuple[str, ...]`): what agrees, of `"file"`, `"name"` and `"signal"`.
        similarity (`float`, *optional*): agreement of the signals, 1 for equal ones; `None` if not compared.
    """

    one_split: str
    one_row: int
    one_id: str
    other_split: str
    other_row: int
    other_id: str
    by: tuple[str, ...]
    similarity: float | None


@dataclass(frozen=True)
class PatientMatch:
    """A patient who is on both sides.

    Args:
        patient (`str`): the number, with the name of the numbering where one is known.
        one, other (`list[tuple[str, int, str]]`): split, row and name of the patient's records on either side.
    """

    patient: str
    one: list[tuple[str, int, str]]
    other: list[tuple[str, int, str]]


@dataclass
class LeakageReport:
    """What two corpora, or the splits of one, share; see `check_leakage`.

    Args:
        titles (`tuple[str, str]`): what the two sides are called.
        within (`bool`): whether splits of one corpus were compared.
        num_records (`tuple[int, int]`): records of either side.
        compared (`tuple[str, ...]`): of `"names"`, `"patients"` and `"signals"`.
        not_compared (`list[tuple[str, str]]`): names of records whose signals could not be compared, and why.
        records (`list[RecordMatch]`): shared records.
        patients (`list[PatientMatch]`): shared patients.
    """

    titles: tuple[str, str]
    within: bool
    num_records: tuple[int, int]
    compared: tuple[str, ...]
    not_compared: list[tuple[str, str]] = field(default_factory=list)
    records: list[RecordMatch] = field(default_factory=list)
    patients: list[PatientMatch] = field(default_factory=list)

    @property
    def found(self) -> bool:
        """Whether anything is shared."""
        return bool(self.records or self.patients)

    def table(self) -> pd.DataFrame:
        """Return a table with a row per shared record and per pair of splits that share a patient.

        Returns:
            `pandas.DataFrame`: `kind` (`record` or `patient`), `by` (what agrees, joined with `+`; for patients their
            number), `one_split`, `one_id`, `other_split`, `other_id` (the first record of a patient), `similarity`,
            and for patients the number of records on either side, `one_records` and `other_records`.
        """
        import pandas as pd

        rows: list[tuple] = [
            (
                "record",
                "+".join(match.by),
                match.one_split,
                match.one_id,
                match.other_split,
                match.other_id,
                match.similarity,
                1,
                1,
            )
            for match in self.records
        ]
        for match in self.patients:
            for split in dict.fromkeys(entry[0] for entry in match.one):
                for other_split in dict.fromkeys(entry[0] for entry in match.other):
                    here = [entry[2] for entry in match.one if entry[0] == split]
                    there = [entry[2] for entry in match.other if entry[0] == other_split]
                    rows.append(
                        ("patient", match.patient, split, here[0], other_split, there[0], None, len(here), len(there))
                    )
        columns = ["kind", "by", "one_split", "one_id", "other_split", "other_id", "similarity"]
        return pd.DataFrame(rows, columns=[*columns, "one_records", "other_records"])

    def rows(self, side: str = "one") -> dict[str, set[int]]:
        """Return the rows, per split, of records that the other side has as well, or whose patients it has.

        Args:
            side (`str`, *optional*, defaults to `"one"`): `"one"` or `"other"`. Within a corpus `"one"` is the earlier
                of two splits.

        Raises:
            ValueError: for another side.
        """
        rows: dict[str, set[int]] = {}
        for split, row, _ in self._entries(side):
            rows.setdefault(split, set()).add(row)
        return rows

    def record_ids(self, side: str = "one") -> list[str]:
        """Return the names of these records, for options such as `exclude_records`.

        Raises:
            ValueError: for another side.
        """
        return list(dict.fromkeys(name for _, _, name in self._entries(side)))

    def without_leaks(self, data: Any, side: str = "one") -> Any:
        """Return a corpus or split without what the other side has as well: its records and all of its patients.

        Args:
            data (`DatasetDict` or `Dataset`): what was passed as `one` (or `other`).
            side (`str`, *optional*, defaults to `"one"`): which of the two it was. Within a corpus records are taken
                from the earlier of two splits, so the test split stays whole.

        Raises:
            ValueError: if `data` is not what was compared.
        """
        rows = self.rows(side)
        if hasattr(data, "items"):
            self._check_splits(rows, set(data))
            return type(data)({name: _without(split, rows.get(name, set())) for name, split in data.items()})
        self._check_splits(rows, {str(getattr(data, "split", None) or "")})
        return _without(data, next(iter(rows.values()), set()))

    def _check_splits(self, rows: dict[str, set[int]], splits: set[str]) -> None:
        if not set(rows) <= splits:
            raise ValueError(
                f"Records of the splits {sorted(rows)} are to be left out, but the data are {sorted(splits)}: pass "
                "what was compared."
            )

    def _entries(self, side: str) -> list[tuple[str, int, str]]:
        if side not in ("one", "other"):
            raise ValueError(f"`side` is 'one' or 'other'; got {side!r}.")
        entries = [
            (match.one_split, match.one_row, match.one_id)
            if side == "one"
            else (match.other_split, match.other_row, match.other_id)
            for match in self.records
        ]
        return entries + [entry for match in self.patients for entry in getattr(match, side)]

    def __str__(self) -> str:
        """Return a summary: what is shared between which splits, with examples."""
        what = ", ".join(self.compared)
        if self.within:
            lines = [f"Splits of {self.titles[0]}: {self.num_records[0]} records, compared by {what}."]
        else:
            sizes = [f"{title} ({count} records)" for title, count in zip(self.titles, self.num_records, strict=True)]
            lines = [f"{sizes[0]} and {sizes[1]}, compared by {what}."]
        if not self.found:
            lines.append("Nothing is shared.")
        counts = Counter((match.one_split, match.other_split, match.by) for match in self.records)
        for (one, other, by), count in counts.items():
            lines.append(f"  {_between(one, other)}{count} record{'s' * (count > 1)} by {' and '.join(by)}")
        patients: Counter = Counter()
        for match in self.patients:
            for pair in {(here[0], there[0]) for here in match.one for there in match.other}:
                patients[pair] += 1
        for (one, other), count in patients.items():
            lines.append(f"  {_between(one, other)}{count} patient{'s' * (count > 1)}")
        if self.records:
            lines.append("Records, for example:")
            for match in self.records[:_EXAMPLES]:
                similarity = "" if match.similarity is None else f", similarity {match.similarity:.4f}"
                lines.append(f"  {match.one_id} = {match.other_id} ({', '.join(match.by)}{similarity})")
        differing = [
            match for match in self.records if match.similarity is not None and match.similarity < SAME_SIMILARITY
        ]
        if differing:
            lines.append(
                f"{len(differing)} of these have one name, but signals that differ, such as {differing[0].one_id}: "
                "another ECG of that name, or another section of it."
            )
        if self.patients:
            named = ", ".join(match.patient for match in self.patients[:_EXAMPLES])
            lines.append(f"Patients: {named}{', …' if len(self.patients) > _EXAMPLES else ''}")
        if self.not_compared:
            name, reason = self.not_compared[0]
            lines.append(
                f"The signals of {len(self.not_compared)} records were not compared, such as {name}: {reason}"
            )
        return "\n".join(lines)


def _between(one: str, other: str) -> str:
    return f"{one or 'one'} and {other or 'other'}: "


def _without(data: Any, rows: set[int]) -> Any:
    return data.select([row for row in range(len(data)) if row not in rows]) if rows else data
