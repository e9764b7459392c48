"""What was chosen for each layer of a run, as HTML: pictures of the masks and a table.

The masks are those of the trace, drawn as they are; cycles are the simulator's, predicted ones the last
selection's.  It leaves out why a structure was chosen: read selection.py for that.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.structure import parse

from . import report_units as units
from .report_masks import mask_png
from .report_run import LayerShape, OnMachine, Run
from .report_sections import section, table
from .report_svg import element, escape

STRUCTURE_COLOURS = {
    "dense": (122, 131, 145),
    "unstructured": (196, 74, 128),
    "channel": (22, 150, 108),
    "filter": (12, 148, 166),
    "kernel": (132, 98, 196),
    "n:m": (38, 122, 196),
    "block": (222, 122, 34),
}
"""RGB by family of structures; mid tones, to be seen on white and on black."""
MOST_MASKS = 40
"""Pictures of masks are left out of a network with more layers: the table says the same in less room."""
MASK_SIDE = 45
"""Most pixels of a mask's picture along one side; ten layers then stand in one row of the page."""


def structures(run: Run) -> str:
    """What was chosen for each layer, as pictures of the masks and as a table."""
    pictures = ""
    if len(run.layers) <= MOST_MASKS:
        pictures = element(
            "div", *(_mask(number, layer) for number, layer in enumerate(run.layers, start=1)), class_="masks"
        )
    predicted = any(layer.predicted_cycles is not None for layer in run.layers)
    head = ["layer", "structure", "weights kept", "inputs kept", "filters kept"]
    head += ["predicted cycles"] if predicted else []
    for on in run.machines:
        name = f" · {on.machine.name}" if len(run.machines) > 1 else ""
        head += [*(("runs as", "dense cycles") if on is run.machines[0] else ()), f"cycles{name}", "speed‑up"]
    rows = [_layer_row(number, layer, run.machines, predicted) for number, layer in enumerate(run.layers, start=1)]
    if run.machines:
        weights = [layer.trace for layer in run.layers if layer.trace.has_parameters]
        kept = sum(one.weight_nnz for one in weights) / sum(one.weight_matrix().size for one in weights)
        total = ["all layers", "", units.percent(kept), "", ""] + ([""] if predicted else [])
        for on in run.machines:
            first = ["", units.exact(on.dense["cycles"])] if on is run.machines[0] else []
            total += [*first, units.exact(on.now["cycles"]), units.times(on.row["speedup"])]
        rows.append(total)
    lead = (
        "A weight is seen as a matrix with the reduction (input channel, kernel row, kernel column) downwards and one "
        "column per filter; the stronger the colour, the more of it is kept. Stripes are removed channels, squares "
        "removed blocks, an even shade a fine pattern."
    )
    if run.machines:
        lead += (
            " <em>Runs as</em> is what the machine made of the mask: <q>dense</q> beside a sparse structure means "
            "that these zeros were not exploited beyond removed channels."
        )
    return section(
        "structures",
        "What was chosen for each layer",
        lead,
        pictures,
        table(head, rows, left=2, class_="layers", last_is_total=bool(run.machines)),
        _finalists(run),
    )


def _finalists(run: Run) -> str:
    """The whole networks that the last selection weighed against each other, where it logged them."""
    if not run.selections or not run.selections[-1].get("finalists"):
        return ""
    last = run.selections[-1]
    rows = []
    for one in last["finalists"]:
        name = escape(one["label"])
        judged = units.NONE if one.get("judged") is None else f"{one['judged']:.4f}"
        rows.append(
            [
                f"<strong>{name}</strong>, chosen" if one["label"] == last.get("chosen") else name,
                f"{one['latency']:.4f}",
                f"{one['energy']:.4f}",
                f"{one['loss']:.4g}",
                judged,
            ]
        )
    head = (
        "network",
        "cycles, of dense",
        "energy, of dense",
        "predicted damage",
        "validation loss after a short training",
    )
    words = f"{len(rows)} whole networks that the selection weighed against each other"
    return element("details", element("summary", words), table(head, rows))


def chip(structure: str) -> str:
    """A structure's name with the colour of its family."""
    return element(
        "span",
        element("i", " ", style="background:rgb({},{},{})".format(*_colour(structure))),
        escape(structure),
        class_="chip",
    )


def _layer_row(number: int, layer: LayerShape, machines: Sequence[OnMachine], predicted: bool) -> list[str]:
    gemm, groups = layer.trace.operation.gemm(), layer.trace.operation.groups
    shape = f"{layer.trace.operation.kind} · {gemm.m}×{gemm.k}×{gemm.n}" + (f" · {groups} groups" if groups > 1 else "")
    density = layer.trace.weight_density
    row = [
        f'<span class="number">{number}</span>{escape(layer.name)}<small>{escape(shape)}</small>',
        chip(layer.trace.structure),
        f'<span class="meter"><i style="width:{100 * density:.1f}%"></i></span>{units.percent(density)}',
        _kept(layer.inputs),
        _kept(layer.filters),
    ]
    if predicted:
        row.append(units.NONE if layer.predicted_cycles is None else units.exact(round(layer.predicted_cycles)))
    for at, on in enumerate(machines):
        this = on.layers[number - 1]
        row += [escape(this.executed_as), units.exact(this.dense["cycles"])] if at == 0 else []
        row += [units.exact(this.now["cycles"]), units.times(this.speedup)]
    return row


def _kept(kept: tuple[int, int]) -> str:
    count, whole = kept
    return str(whole) if count == whole else f"<strong>{count}</strong> of {whole}"


def _mask(number: int, layer: LayerShape) -> str:
    # Few layers leave room for pixels of two; the style sheet keeps them sharp.
    uri, width, height = mask_png(layer.trace.weight_matrix(), _colour(layer.trace.structure), MASK_SIDE)
    picture = element("img", src=uri, width=2 * width, height=2 * height, alt="")
    _, k, n = layer.trace.weight_matrix().shape
    tip = f"{layer.name}\n{layer.trace.structure}, {units.percent(layer.trace.weight_density)} of {k}×{n} weights kept"
    return element(
        "figure",
        element("div", picture, class_="mask"),
        element(
            "figcaption",
            f'<span class="number">{number}</span>{escape(layer.trace.structure)}',
            element("small", units.percent(layer.trace.weight_density, 0)),
        ),
        data_tip=tip,
    )


def _colour(structure: str) -> tuple[int, int, int]:
    known = parse(structure)
    family = "n:m" if known.is_plain_n_of_m else known.name.split()[0]
    return STRUCTURE_COLOURS.get(family, STRUCTURE_COLOURS["unstructured"])
