#!/usr/bin/env python3
"""The API reference, from the comments of the .proto files as a descriptor set carries them.

    /usr/bin/python3 proto/api_reference.py build/release/clamor.protoset > deploy/api.md
"""
import sys

from google.protobuf import descriptor_pb2

FILES = ("generation", "session", "model", "admin", "retrieval")  # what clients and operators call
KINDS = descriptor_pb2.FieldDescriptorProto
HEAD = """# API reference

Package `clamor.v1`, by file. Generated from the comments in `proto/clamor/v1`, do not edit:

    /usr/bin/python3 proto/api_reference.py build/release/clamor.protoset > deploy/api.md

Clients of a gateway use GenerationService, SessionService and ModelService, operators AdminService too, and of a store
RetrievalService. `?` marks a field whose default is not the zero of its type.
"""


class File:
    """A file's comments by the path of what they stand before (descriptor.proto, SourceCodeInfo)."""

    def __init__(self, file):
        self.file = file
        self.locations = {tuple(location.path): location for location in file.source_code_info.location}

    def comment(self, *path):
        location = self.locations.get(path)
        return location.leading_comments if location else ""

    def paragraphs(self, *path):
        """As they are wrapped in the file."""
        return "\n".join(line.removeprefix(" ").rstrip() for line in self.comment(*path).splitlines()).strip()

    def line(self, *path):
        """For the cell of a table."""
        return " ".join(self.comment(*path).split()).replace("|", "\\|")


def short(name):
    return name.removeprefix(".clamor.v1.").removeprefix(".")


def link(name):
    """A scalar as it is, a message or enum as a link to where it is explained."""
    return f"[{name}](#{name.lower()})" if name[:1].isupper() else f"`{name}`"


def type_of(field, entries):
    if field.type_name in entries:
        key, value = entries[field.type_name].field
        return f"map<{type_of(key, entries)}, {type_of(value, entries)}>"
    name = link(short(field.type_name) or KINDS.Type.Name(field.type).removeprefix("TYPE_").lower())
    repeated = field.label == KINDS.LABEL_REPEATED
    return f"repeated {name}" if repeated else name + "?" * field.proto3_optional


def service(file, index, service):
    print(f"\n### {service.name}\n\n{file.paragraphs(6, index)}\n\n| RPC | request | answer | |\n|---|---|---|---|")
    for i, method in enumerate(service.method):
        answer = "stream of " * method.server_streaming + link(short(method.output_type))
        print(f"| `{method.name}` | {link(short(method.input_type))} | {answer} | {file.line(6, index, 2, i)} |")


def message(file, index, message):
    print(f"\n#### {message.name}\n\n{file.paragraphs(4, index)}")
    if message.field:
        print("\n| field | type | |\n|---|---|---|")
    entries = {f".clamor.v1.{message.name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    for i, field in enumerate(message.field):
        words = file.line(4, index, 2, i)
        if field.HasField("oneof_index") and not field.proto3_optional:
            words = f"(one of `{message.oneof_decl[field.oneof_index].name}`) {words}".strip()
        print(f"| `{field.name}` | {type_of(field, entries)} | {words} |")


def enum(file, index, enum):
    print(f"\n#### {enum.name}\n\n{file.paragraphs(5, index)}\n\n| value | |\n|---|---|")
    for i, value in enumerate(enum.value):
        print(f"| `{value.name}` | {file.line(5, index, 2, i)} |")


def main(path):
    with open(path, "rb") as stream:
        files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(stream.read()).file}
    print(HEAD, end="")
    for name in FILES:
        file = File(files[f"clamor/v1/{name}.proto"])
        print(f"\n## {name}.proto\n\n{file.paragraphs(12)}")
        for what, each in ((service, file.file.service), (message, file.file.message_type), (enum, file.file.enum_type)):
            for index, declared in enumerate(each):
                what(file, index, declared)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: api_reference.py PROTOSET")
    main(sys.argv[1])
