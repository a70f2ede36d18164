"""Whether a schema reads what another one wrote: schema resolution of the Avro specification 1.12. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastavro.schema import parse_schema

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
"""What a reader may take each primitive type as."""
_RECORDS = {"record", "error"}


def why_unreadable(reader: Any, writer: Any) -> str | None:
    """Return why data of the schema `writer` cannot be read with the schema `reader`, or None.

    Raises:
        Exception: of fastavro, if one of them is not a schema.
    """
    reader_names: dict[str, Any] = {}
    writer_names: dict[str, Any] = {}
    parsed = parse_schema(reader, reader_names), parse_schema(writer, writer_names)
    return _Resolution(reader_names, writer_names).fault(*parsed, "")


@dataclass(frozen=True, slots=True)
class _Resolution:
    """The named types of both schemas, and the pairs that were compared, because types may be recursive."""

    reader_names: dict[str, Any]
    writer_names: dict[str, Any]
    compared: set[tuple[str, str]] = field(default_factory=set)

    def fault(self, reader: Any, writer: Any, path: str) -> str | None:
        """Return why the type `writer` cannot be read as the type `reader`, or None."""
        reader, writer = _resolved(reader, self.reader_names), _resolved(writer, self.writer_names)
        if isinstance(writer, list):
            return _first(self.fault(reader, branch, path) for branch in writer)
        if isinstance(reader, list):
            if any(self.fault(branch, writer, path) is None for branch in reader):
                return None
            return f"{path or 'the schema'}: no branch of the union reads {_type_of(writer)}"
        reader_type, writer_type = _type_of(reader), _type_of(writer)
        if reader_type != writer_type:
            if reader_type in _PROMOTIONS.get(writer_type, ()):
                return None
            return f"{path or 'the schema'}: {reader_type} does not read {writer_type}"
        return self._fault_of_same_type(reader, writer, path)

    def _fault_of_same_type(self, reader: Any, writer: Any, path: str) -> str | None:
        fault: str | None = None
        match _type_of(reader):
            case "array":
                fault = self.fault(reader["items"], writer["items"], f"{path}[]")
            case "map":
                fault = self.fault(reader["values"], writer["values"], f"{path}{{}}")
            case "enum" | "fixed" | "record" if not _has_name(reader, writer):
                fault = f"{path or 'the schema'}: {reader['name']} does not read {writer['name']}"
            case "enum" if "default" not in reader:
                unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
                fault = f"{path or 'the schema'}: no symbol {unknown[0]}, and no default" if unknown else None
            case "fixed" if reader["size"] != writer["size"]:
                fault = f"{path or 'the schema'}: the sizes differ"
            case "record":
                fault = self._fault_of_record(reader, writer, path)
        return fault

    def _fault_of_record(self, reader: Any, writer: Any, path: str) -> str | None:
        pair = reader["name"], writer["name"]
        if pair in self.compared:
            return None
        self.compared.add(pair)
        written = {entry["name"]: entry for entry in writer["fields"]}
        for entry in reader["fields"]:
            names = [entry["name"], *entry.get("aliases", ())]
            match = next((written[name] for name in names if name in written), None)
            where = f"{path}.{entry['name']}".lstrip(".")
            if match is None and "default" not in entry:
                fault: str | None = f"{where}: a new field without a default"
            else:
                fault = None if match is None else self.fault(entry["type"], match["type"], where)
            if fault is not None:
                self.compared.discard(pair)
                return fault
        return None


def _resolved(node: Any, names: dict[str, Any]) -> Any:
    return names.get(node, node) if isinstance(node, str) else node


def _type_of(node: Any) -> str:
    """Return the name of a type; that of a record called an error, too."""
    name = node["type"] if isinstance(node, dict) else node
    return "record" if name in _RECORDS else str(name)


def _has_name(reader: Any, writer: Any) -> bool:
    """Return whether the reader has the writer's name without its namespace, or has it as an alias."""
    if reader["name"].rpartition(".")[2] == writer["name"].rpartition(".")[2]:
        return True
    space = reader["name"].rpartition(".")[0]
    aliases = (alias if "." in alias or not space else f"{space}.{alias}" for alias in reader.get("aliases", ()))
    return writer["name"] in aliases


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault is not None), None)
