"""A table of the report: numbers for machines, cells for people."""

import re
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class ReportTable:
    """Cells are texts by row and column; `bold` says which of them stand out."""

    name: str  # of its files
    title: str
    caption: str
    numbers: pd.DataFrame  # tidy: a row per setting and condition, with the `runs` that each comes from
    cells: pd.DataFrame
    bold: pd.DataFrame
    head: str = "setting"  # what rows are

    def markdown(self) -> str:
        """A pipe table, with its title and caption."""
        rows = [[self.head, *self.cells.columns], ["---", *["---:"] * self.cells.shape[1]]]
        rows += [[label, *(f"**{text}**" if bold else text for text, bold in cells)] for label, cells in self.rows()]
        lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"## {self.title}", "", *lines, "", self.caption, ""])

    def latex(self) -> str:
        r"""A `table` for `booktabs` (\usepackage{booktabs})."""
        columns = self.cells.shape[1]
        body = [
            " & ".join([_tex(label), *(rf"\textbf{{{_tex(text)}}}" if bold else _tex(text) for text, bold in cells)])
            for label, cells in self.rows()
        ]
        head = " & ".join([_tex(self.head), *(_tex(str(column)) for column in self.cells.columns)])
        return "\n".join(
            [
                r"\begin{table}", r"  \centering", rf"  \caption{{{_tex(self.title)}. {_tex(self.caption)}}}",
                rf"  \label{{tab:{self.name}}}", rf"  \begin{{tabular}}{{l{'r' * columns}}}", r"    \toprule",
                rf"    {head} \\", r"    \midrule", *(rf"    {row} \\" for row in body), r"    \bottomrule",
                r"  \end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip

    def rows(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """Each row's label, and its cells with whether they are bold."""
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
    return re.sub("|".join(map(re.escape, TEX)), lambda found: TEX[found[0]], str(text))
