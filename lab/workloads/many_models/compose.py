"""One program of several compiled networks, of which one at a time is ready to infer. No torch in here.

Each network keeps the C that the compiler yields. Weights that are stored in another form lie, decoded, in one region
of RAM that is as large as the largest network needs (YONO's preallocated weight region), or are shared by networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lab.compiler.binary_constants import arrays_of, file_name
from lab.compiler.model import BufferPlan, CompiledModel, LayerInfo, TensorSpec
from lab.workloads.many_models.loading import image_of, in_region
from lab.workloads.parts import as_part

REGION = "network_weights"
_WEIGHTS = re.compile(r"^static const int32_t (\w+_weights)\[(\d+)\] = \{\n(.*?)^\};\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Book:
    """A codebook as a device has it: its bytes, and the sizes of ``lab_weight_codebook_t``."""

    entries: bytes
    subspaces: int
    words: int
    width: int
    index_bits: int


@dataclass(frozen=True)
class StoredLayer:
    """Weights of a layer as they are stored.

    Attributes:
        book: name of the codebook; empty where the weights themselves are stored.
        stored: what lies in flash.
        bytes: of the weights in memory; a multiple of four.
    """

    book: str
    stored: bytes
    bytes: int


@dataclass(frozen=True)
class Member:
    """A network of the program.

    Attributes:
        name: a C identifier.
        model: compiled for inference in int8.
        layers: what is stored of each layer with packed weights, in the order of the schedule; None where they lie in
            flash as the kernels read them.
        whole: all constants are one image, which is read into RAM from where the device keeps it; there are no
            ``layers``, and all members are so.
    """

    name: str
    model: CompiledModel
    layers: tuple[StoredLayer | None, ...]
    whole: bool = False

    @cached_property
    def stored(self) -> tuple[StoredLayer | None, ...]:
        """What is stored of it: its layers, or its image."""
        if not self.whole:
            return self.layers
        image = image_of(self.text, self.model.binaries)
        return (StoredLayer("", image, len(image)),)

    @property
    def text(self) -> str:
        """Its C, as the compiler yields it."""
        return as_part(self.model, f"network_{self.name}")

    @property
    def region_bytes(self) -> int:
        """RAM that its decoded weights take, or its image."""
        return sum(one.bytes for one in self.stored if one is not None)

    @property
    def flash_bytes(self) -> int:
        """Constants, as they are stored, without codebooks."""
        if self.whole:
            return self.region_bytes
        return self.model.weights_bytes - self.region_bytes + sum(len(one.stored) for one in self.layers if one)


def compose(name: str, members: Sequence[Member], books: Mapping[str, Book], *, share: bool = False) -> CompiledModel:
    """The program.

    Args:
        name: C identifier.
        members: in the order of their numbers.
        books: by the names that layers have for them.
        share: whether weights that are the same in several networks are stored once.

    Large weights in files of their own (:mod:`lab.compiler.binary_constants`) are taken along; of these each network
    keeps its own.

    Raises:
        ValueError: the layers of a member are not those of its C.
    """
    # Imports torch, which who only lists workloads does not wait for.
    from lab.compiler.emit import digest

    texts = {one.name: one.text for one in members}
    shared = _shared(list(texts.values())) if share else {}
    sources = {f"network_{one.name}.c": _placed(texts[one.name], one, shared) for one in members}
    files: dict[str, bytes] = {}
    for one in members:
        place = f"network_{one.name}.c"
        sources[place], own = _with_files(sources[place], one)
        files |= own
    sources["model.h"] = _header(name, members, shared)
    sources["model.c"] = _source(name, members, books, shared)
    saved = sum(4 * count * (_uses(texts.values(), body) - 1) for body, (_, count) in shared.items())
    flash = sum(one.flash_bytes for one in members) + sum(len(one.entries) for one in books.values()) - saved
    models = [one.model for one in members]
    widest_in, widest_out = (max(sizes) for sizes in zip(*((m.input.size, m.output.size) for m in models), strict=True))
    arena = max(one.arena_bytes for one in models)
    macs = round(sum(one.macs for one in models) / len(models))
    return CompiledModel(
        name=name,
        sources=sources,
        input=TensorSpec((widest_in,), 1.0, 0),
        output=TensorSpec((widest_out,), 1.0, 0),
        layers=(LayerInfo("network", f"one of {len(members)}", macs, flash, (widest_in,), (widest_out,)),),
        buffers=(BufferPlan("the network that is ready", 0, arena, 0, 0),),
        arena_bytes=arena,
        lower_bound_bytes=max(one.lower_bound_bytes for one in models),
        digest=digest(sources),
        binaries=files,
    )


# ---- C ------------------------------------------------------------------------------------------------------------


def _shared(texts: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Weights that several networks have: their text, to a name and how many words they are."""
    found: dict[str, tuple[str, int]] = {}
    for _, count, body in (one for text in texts for one in _WEIGHTS.findall(text)):
        if body not in found and _uses(texts, body) > 1:
            found[body] = (f"shared_weights_{len(found)}", int(count))
    return found


def _uses(texts: Iterable[str], body: str) -> int:
    return sum(body == other for text in texts for _, _, other in _WEIGHTS.findall(text))


def _with_files(text: str, member: Member) -> tuple[str, dict[str, bytes]]:
    """The C of a network and the files it still includes, under names that no other network's have."""
    files: dict[str, bytes] = {}
    for array in arrays_of(text):
        file = file_name(array.label)
        own = f"network_{member.name}_{file}"
        text = text.replace(array.text, array.text.replace(file, own))
        files[own] = member.model.binaries[file]
    return text, files


@dataclass(frozen=True)
class _Weights:
    """Weights in a network's C: the text that declares them, their name, how many words, and their values there."""

    text: str
    label: str
    count: int
    body: str


def _weights(text: str) -> list[_Weights]:
    """In the order of the schedule, those in files among them, which have no values in the text."""
    there = {found.start(): _Weights(found[0], found[1], int(found[2]), found[3]) for found in _WEIGHTS.finditer(text)}
    for array in arrays_of(text):
        if array.label.endswith("_weights"):
            there[array.at] = _Weights(array.text, array.label, array.count, "")
    return [there[place] for place in sorted(there)]


def _placed(text: str, member: Member, shared: Mapping[str, tuple[str, int]]) -> str:
    """The C of a network whose weights lie where they are decoded to, or where all share them."""
    if member.whole:
        return in_region(text, REGION, member.model.binaries)
    there = _weights(text)
    wrong = len(there) != len(member.layers) or any(
        layer is not None and layer.bytes != 4 * one.count for one, layer in zip(there, member.layers, strict=False)
    )
    if wrong:
        raise ValueError(f"network '{member.name}' has the weights {[one.count for one in there]} in words; "
                         f"{[one and one.bytes for one in member.layers]} bytes are stored")  # fmt: skip
    offset = 0
    for one, layer in zip(there, member.layers, strict=True):
        if layer is not None:
            text = text.replace(one.text, f"#define {one.label} ({REGION} + {offset // 4}u)\n")
            offset += layer.bytes
        elif one.body in shared:
            text = text.replace(one.text, f"#define {one.label} {shared[one.body][0]}\n")
    return text


def _header(name: str, members: Sequence[Member], shared: Mapping[str, tuple[str, int]]) -> str:
    models = [one.model for one in members]
    region = max(one.region_bytes for one in members)
    lines = [
        f"/* {len(members)} networks, '{name}', generated by the lab. Do not edit. */",
        "#ifndef LAB_GENERATED_MODEL_H", "#define LAB_GENERATED_MODEL_H", "", '#include "lab_model.h"', "",
        f"#define LAB_MODEL_ARENA_BYTES {max(one.arena_bytes for one in models)}u",
        f"#define LAB_MODEL_INPUT_BYTES {max(one.input.size for one in models)}u",
        f"#define LAB_MODEL_OUTPUT_BYTES {max(one.output.size for one in models)}u", "",
    ]  # fmt: skip
    lines += [f"extern const int32_t {label}[{count}];" for label, count in shared.values()]
    if region:
        lines += ["/* Weights of the network that is ready. */", f"extern int32_t {REGION}[{region // 4}];"]
    return "\n".join((*lines, "", "#endif", ""))


def _source(
    name: str, members: Sequence[Member], books: Mapping[str, Book], shared: Mapping[str, tuple[str, int]]
) -> str:
    region = max(one.region_bytes for one in members)
    lines = [f"/* {len(members)} networks, '{name}', generated by the lab. Do not edit. */", '#include "model.h"', ""]
    lines += ['#include "lab_stored_read.h"'] if any(one.whole for one in members) else []
    lines += ['#include "lab_weight_codec.h"', ""] if region else []
    lines += ["#include <string.h>", ""]
    for body, (label, count) in shared.items():
        lines += [f"const int32_t {label}[{count}] = {{", body.rstrip("\n"), "};", ""]
    for label, book in books.items():
        lines += _book(label, book)
    lines += [f"extern const lab_model_t network_{one.name};" for one in members]
    if region:
        lines += ["", f"int32_t {REGION}[{region // 4}];", ""]
        for one in members:
            lines += _stored(one)
    lines += _table(members, stored=bool(region))
    decoding = _READ if any(one.whole for one in members) else _DECODE
    return "\n".join((*lines, "", _border(name, members, decoding if region else "")))


def _octets(declaration: str, values: bytes) -> list[str]:
    rows = [values[at : at + 24] for at in range(0, len(values), 24)]
    return [f"{declaration}[{len(values)}] = {{", *(f"    {', '.join(map(str, row))}," for row in rows), "};"]


def _book(label: str, book: Book) -> list[str]:
    sizes = (book.subspaces, book.words, book.width, book.index_bits)
    return [
        *_octets(f"static const uint8_t entries_{label}", book.entries),
        f"static const lab_weight_codebook_t book_{label} = {{",
        f"    entries_{label}, {', '.join(f'{size}u' for size in sizes)}}};",
        "",
    ]


def _stored(member: Member) -> list[str]:
    lines: list[str] = []
    rows: list[str] = []
    offset = 0
    for number, layer in enumerate(member.stored):
        if layer is None:
            continue
        label = f"stored_{member.name}_{number}"
        lines += _octets(f"static const uint8_t {label}", layer.stored)
        book = f"&book_{layer.book}" if layer.book else "0"
        rows.append(f"    {{{book}, {label}, (uint8_t *)({REGION} + {offset // 4}u), {layer.bytes}u}},")
        offset += layer.bytes
    if rows:
        lines += [f"static const lab_stored_weights_t layers_{member.name}[{len(rows)}] = {{", *rows, "};", ""]
    return lines


def _table(members: Sequence[Member], *, stored: bool) -> list[str]:
    rows = []
    for one in members:
        count = sum(layer is not None for layer in one.stored)
        decoded = f", {f'layers_{one.name}' if count else '0'}, {count}u" if stored else ""
        rows.append(f"    {{&network_{one.name}{decoded}}},")
    fields = ["    const lab_model_t *model;"]
    fields += ["    const lab_stored_weights_t *layers;", "    uint32_t layer_count;"] if stored else []
    return ["", "static const struct {", *fields, f"}} networks[{len(members)}] = {{", *rows, "};"]


_READ = """    for (uint32_t i = 0; i < networks[network].layer_count; i++) {
        const lab_stored_weights_t *image = &networks[network].layers[i];
        lab_stored_read(image->weights, image->stored, image->bytes);
    }
"""

_DECODE = """    for (uint32_t i = 0; i < networks[network].layer_count; i++)
        lab_weight_decode(&networks[network].layers[i]);
"""

_FUNCTIONS = """/* The number of the network that is ready, plus one; 0 before the first. */
static uint32_t ready;

static void load(uint32_t network)
{
@DECODE@    ready = network + 1u;
}

static void infer(const void *sample, void *output, uint8_t *arena)
{
    if (ready == 0)
        load(0);
    /* Outputs of networks with fewer classes end in zeros. */
    memset(output, 0, LAB_MODEL_OUTPUT_BYTES);
    networks[ready - 1u].model->infer(sample, output, arena);
}

static void infer_profiled(const void *sample, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0u, 1u);
    infer(sample, output, arena);
    hook(context, 0u, 0u);
}

static const char *const layer_names[1] = {"network"};
"""


def _border(name: str, members: Sequence[Member], decoding: str) -> str:
    return f"""{_FUNCTIONS.replace("@DECODE@", decoding)}
const lab_model_t lab_model = {{
    .name = "{name}",
    .input_bytes = LAB_MODEL_INPUT_BYTES,
    .output_bytes = LAB_MODEL_OUTPUT_BYTES,
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 1u,
    .layer_names = layer_names,
    .infer = infer,
    .infer_profiled = infer_profiled,
    .output_scale = 1.0f,
    .output_zero_point = 0,
    .input_scale = 1.0f,
    .input_zero_point = 0,
    .load = load,
    .network_count = {len(members)}u,
}};
"""
