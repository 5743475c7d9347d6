"""What Drover costs and how quick it is, measured in one run beside what people would take instead: `scripts/bench.sh --help`.

One module a part: a generator of `Figure`s that is given the `Ground` of the run. Ratios are of measurements made in turns. What is to be
reached and what must not get worse stands in bounds.toml, with the reasons.
"""
