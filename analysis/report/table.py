"""A table of a report, as numbers and as formatted cells."""

import re
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class ReportTable:
    """`cells`: formatted texts by row and column; `bold`: true for cells in bold type."""

    name: str  # of its files
    title: str
    caption: str
    numbers: pd.DataFrame  # long form: one row per setting and condition, with its `runs`
    cells: pd.DataFrame
    bold: pd.DataFrame
    row_header: str = "setting"

    def markdown(self) -> str:
        """Return a pipe table with title and caption."""
        rows = [[self.row_header, *self.cells.columns], ["---", *["---:"] * self.cells.shape[1]]]
        rows += [[label, *(f"**{text}**" if bold else text for text, bold in cells)] for label, cells in self.rows()]
        lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"## {self.title}", "", *lines, "", self.caption, ""])

    def latex(self) -> str:
        r"""Return a `table` environment that needs \usepackage{booktabs}."""
        columns = self.cells.shape[1]
        body = [
            " & ".join([_tex(label), *(rf"\textbf{{{_tex(text)}}}" if bold else _tex(text) for text, bold in cells)])
            for label, cells in self.rows()
        ]
        head = " & ".join([_tex(self.row_header), *(_tex(str(column)) for column in self.cells.columns)])
        return "\n".join(
            [
                r"\begin{table}", r"  \centering", rf"  \caption{{{_tex(self.title)}. {_tex(self.caption)}}}",
                rf"  \label{{tab:{self.name}}}", rf"  \begin{{tabular}}{{l{'r' * columns}}}", r"    \toprule",
                rf"    {head} \\", r"    \midrule", *(rf"    {row} \\" for row in body), r"    \bottomrule",
                r"  \end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip

    def rows(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """Return the label of each row, and each of its cells with whether it is bold."""
        texts, bold = self.cells.to_numpy(), self.bold.to_numpy()
        return [
            (str(label), [(str(text), bool(is_bold)) for text, is_bold in zip(*row, strict=True)])
            for label, *row in zip(self.cells.index, texts, bold, strict=True)
        ]


TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "λ": r"$\lambda$", "α": r"$\alpha$",
    "μ": r"$\mu$", "β": r"$\beta$", "×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, TEX)), lambda match: TEX[match[0]], str(text))
