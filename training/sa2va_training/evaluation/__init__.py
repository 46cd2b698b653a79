# SPDX-License-Identifier: Apache-2.0
"""A model on a dataset: `sa2va evaluate`.

`predictor.py` asks the model; `scoring.py` turns one answer into a record; `run.py` goes through the dataset and can be
stopped and resumed; `report.py` makes the benchmarks' figures of the records; `sheet.py` draws some of them.
"""
