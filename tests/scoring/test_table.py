"""The printed table: order, stars, alignment, last sentence."""

from __future__ import annotations

from spamcaf.scoring.scores import format_table, reach


def test_rows_are_sorted_by_mean_pcc(scored) -> None:
    table = format_table(scored[0]).split("Super-resolution", maxsplit=1)[0]
    assert table.index("\nSpaMCAF ") < table.index("\nInverse distance ") < table.index("\nGene mean ")


def test_the_best_of_each_column_has_the_star(scored) -> None:
    rows = format_table(scored[0]).splitlines()
    ours = next(row for row in rows if row.startswith("SpaMCAF "))
    idw = next(row for row in rows if row.startswith("Inverse distance "))
    assert ours.count("*") == 6  # five where high is good, one where low is
    assert "*" not in idw


def test_no_star_where_another_model_is_level(scored) -> None:
    scores = scored[0]
    scores["comparison"]["mse"]["level"] = ["idw"]
    row = next(row for row in format_table(scores).splitlines() if row.startswith("SpaMCAF "))
    assert row.count("*") == 5


def test_a_terminal_holds_the_table(scored) -> None:
    head = next(line for line in format_table(scored[0]).splitlines() if line.startswith("model"))
    assert len(head.split()) <= 8
    assert "ssim" in head.split()


def test_columns_are_aligned(scored) -> None:
    lines = format_table(scored[0]).splitlines()
    head = next(line for line in lines if line.startswith("model"))
    for column in ("pcc_mean", "mse", "variance_ratio"):
        end = f"{head} ".index(f"  {column} ") + 2 + len(column)
        for name in ("SpaMCAF", "Inverse distance", "Gene mean"):
            row = next(line for line in lines if line.startswith(f"{name} "))
            assert row[end - 3].isdigit()  # a figure ends two places before its column does: room for the star
            assert row[end - 2 : end] in ("", "  ", " *")


def test_ends_with_the_verdict_and_shows_super_resolution(scored) -> None:
    scores, _ = scored
    table = format_table(scores)
    assert table.splitlines()[-1] == scores["verdict"]
    assert "Super-resolution 4.00 x, 120 sites" in table
    assert "Nearest spot" in table


def test_states_what_can_be_reached(scored) -> None:
    scores, _ = scored
    scores["models"]["depth_only"] = scores["models"]["idw"]
    table = format_table(scores)
    for sentence in reach(scores):
        assert sentence in table.splitlines()
    assert table.count("Reachable limit") == table.count("Sequencing depth alone, predicted") == 1


def test_without_super_resolution_and_coverage(scored) -> None:
    scores = {**scored[0], "coverage_90": None}
    del scores["super_resolution"]
    table = format_table(scores)
    assert "WITHOUT AN IMAGE" not in table and "WITHOUT AN IMAGE" in format_table(scores | {"image": "none"})
    assert "Super-resolution" not in table
    assert "intervals" not in table
