# %% [markdown]
# # Result tables in Python
#
# A script with cells: run it as a whole (`python -m analysis.tour results/quickstart`) or cell by cell in an editor.

# %% Every run below some folders, finished or not
import sys

from analysis import tables
from analysis.diagnosis import diagnose
from analysis.figures import curves, sweeps
from analysis.labels import name_runs
from analysis.outcomes import comparable, outcomes, spent
from analysis.records import load

records = load(*(sys.argv[1:] or ["results/quickstart"]))
records.runs[["strategy.name", "seed", "commit"]]  # one row per run, one column per spec field
records.rounds.tail()  # one row per run and round

# %% Labels and metrics of each run
runs, rounds, left_out = comparable(name_runs(records.runs), records.rounds)
named = outcomes(runs, rounds).join(spent(records.rounds))
print(left_out or "every run has reached its last round")
print(named[["setting", "condition", "seed", "final", "best", "last"]].to_string())

# %% Tables: numbers over seeds, compared with baselines
compared = tables.comparison(named)
print(compared.to_string())
print(tables.wide(compared, compared["mean"].map("{:.1%}".format)).to_string())
print(tables.to_target(named, rounds).to_string())

# %% Findings
for finding in diagnose(named, rounds, records.clients(named.index)):
    print(f"{'!' if finding.is_warning else ' '} {finding.topic}: {finding.sentence}")

# %% Figures of matplotlib; None if there is nothing to draw
best = tables.best_of_families(named)
figure = curves.accuracy_by_round(best, rounds)
swept = sweeps.lambda_curves(named)
if figure is not None:
    figure.savefig("accuracy-by-round.pdf")

# %% Any other statistics with pandas
print(named.groupby("family", observed=True)[["last", "worst_class", "seconds"]].describe().T.to_string())
