"""How much of explain_example.py is loaded at once, under some settings."""

import dask
from explain_example import mean

from distributed.rootish import explain

SCHEDULER = "distributed.scheduler."
TRIED = (
    {},
    {"rootish-policy": "marked"},
    {
        "rootish-policy": "marked",
        "rootish-taskgroup": 9,
        "rootish-taskgroup-dependencies": 9,
    },
    {"worker-saturation": 1.0},
    {"worker-saturation": float("inf")},
)

for settings in TRIED:
    with dask.config.set({SCHEDULER + name: value for name, value in settings.items()}):
        explanation = explain(mean(), nworkers=4, nthreads=1)
    text = ", ".join(f"{name}: {value}" for name, value in settings.items())
    memory = explanation.in_memory[explanation.policy]
    print(text or "defaults")
    print(f"    up to {memory} loaded at once")
    if groups := explanation.overproducing():
        print(f"    not held back: {len(groups)} group of {groups[0].tasks} tasks")
