"""Tables of what counts without an image add, and of draws from the posterior; the network is left out of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _hiding import Hiding
from _models import SEED, Options, coverage_90, mean_pcc, predict_ours
from _section import Section
from _table import Table
from anndata import AnnData

from spamcaf.datasets.inputs import References
from spamcaf.model.draws import draw_expression
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.fitted import SpamcafModel
from spamcaf.parameters import FitSettings, SplitSettings
from spamcaf.pipelines.references import join_reference, reference_counts
from spamcaf.readers.reference import Reference, read_reference
from spamcaf.scoring.metrics import gene_structure, score_draws
from spamcaf.sections.panel import normalise_expression

N_DRAWS = 20
NEIGHBOURS = 4


def reference_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """One section at a time, gene programs learned from counts of others too."""
    table = Table(f"random, gene programs of reference counts too (use_network=false), masks 0-{n_masks - 1}")
    notes = Table("coverage of the 90 % interval", 3)
    files = ", ".join(path.name.split(".")[0] for path in options.references) or "none"
    for mask in range(n_masks):
        for section in sections:
            hiding = Hiding.of(section, SplitSettings(mask=mask), options.panel)
            others = [other for other in sections if other is not section]
            rows: dict[str, tuple[Sequence[Path], Sequence[Section]]] = {
                "no reference": ((), ()),
                f"files ({files})": (options.references, ()),
            }
            rows["files, and counts of the other sections"] = (options.references, others)
            held = hiding.held_out()
            for row, (paths, of_sections) in rows.items():
                model = _fit(hiding, options, paths, of_sections)
                predicted = predict_ours(model, hiding.visible().measured, held.sites, options)
                table.add(row, section.name, mean_pcc(held.expression, predicted.mean))
                notes.add(row, section.name, coverage_90(held.expression, predicted))
    return f"{table.markdown()}\n{notes.markdown()}"


def views_table(sections: Sequence[Section], viewed: Sequence[Section], n_masks: int, options: Options) -> str:
    """Features of one view of each site's tile and of several, without and with reference counts."""
    table = Table(f"random, one view of the tile and 12 (use_network=false), masks 0-{n_masks - 1}")
    for mask in range(n_masks):
        for one, many in zip(sections, viewed, strict=True):
            others = [other for other in sections if other.name != one.name]
            for section, row in ((one, "1 view"), (many, "12 views")):
                hiding = Hiding.of(section, SplitSettings(mask=mask), options.panel)
                held = hiding.held_out()
                for where, given in (("", ((), ())), (", files and other sections", (options.references, others))):
                    predicted = predict_ours(
                        _fit(hiding, options, *given), hiding.visible().measured, held.sites, options
                    )
                    table.add(f"{row}{where}", section.name, mean_pcc(held.expression, predicted.mean))
    return table.markdown()


def draws_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """Variance, Moran's I and gene-gene structure of the prediction and of draws, against the measurement."""
    table = Table(
        f"{N_DRAWS} draws and their mean, against the measurement (use_network=false), masks 0-{n_masks - 1}", 3
    )
    for mask in range(n_masks):
        for section in sections:
            hiding = Hiding.of(section, SplitSettings(mask=mask), options.panel)
            held, visible = hiding.held_out(), hiding.visible().measured
            model = _fit(hiding, options, (), ())
            mean = predict_ours(model, visible, held.sites, options).mean
            drawn = draw_expression(model, visible, held.sites, mean, N_DRAWS, "counts", SEED)
            truth, xy_um = held.expression, held.sites.xy_um
            for row, values in (("prediction", mean[None]), ("draws", drawn)):
                found = score_draws(truth, values, xy_um, NEIGHBOURS)
                for metric in ("variance_ratio", "moran_ratio", "gene_structure"):
                    table.add(f"{row}: {metric}", section.name, found[metric] or np.nan)
            structure = gene_structure(truth, visible.expression)
            table.add("measured visible spots: gene_structure", section.name, structure or np.nan)
            error = np.sqrt(np.square(drawn.mean(axis=0) - mean).mean() / drawn.var(axis=0).mean() * N_DRAWS)
            table.add("mean of draws - prediction, in standard errors", section.name, float(error))
    return table.markdown()


def _fit(hiding: Hiding, options: Options, paths: Sequence[Path], others: Sequence[Section]) -> SpamcafModel:
    expression = _expression(hiding)
    references = References({path.name: Reference(partial(read_reference, path), [path]) for path in paths})
    counts = reference_counts(references, expression, SEED)
    counts += [join_reference(other.name, other.data, expression, SEED) for other in others]
    fit = FitSettings(**{**options.fit.model_dump(), "use_network": False})
    options = replace(options, fit=fit)
    settings = (fit, options.network, options.compute, SEED)
    return fit_spamcaf(hiding.visible(), [], hiding.section.pitch_um, *settings, references=counts).model


def _expression(hiding: Hiding) -> AnnData:
    panel, more = (pd.DataFrame({"gene": genes}) for genes in (hiding.genes, hiding.more))
    return normalise_expression(hiding.section.data, panel, more)
