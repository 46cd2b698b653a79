# SPDX-License-Identifier: Apache-2.0
"""Expressions for objects of clips, written by models as Ref-SAV's were: object, scene, video (arXiv 2501.04001).

`pictures.py` draws what is shown, `pipeline.py` asks and keeps every answer, `backends.py` are who is asked.
"""
