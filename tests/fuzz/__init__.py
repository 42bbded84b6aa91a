"""Bytes of every kind against whatever reads bytes of strangers; see docs/reliability-fuzzing.md.

A *target* turns bytes into a judgement: `check` returns, or raises what is a finding. All of them take plain bytes, so
that one mutator, one minimizer, one corpus and libFuzzer (by way of atheris, where it is installed) serve them all.
"""
