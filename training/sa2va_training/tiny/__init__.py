# SPDX-License-Identifier: Apache-2.0
"""How the model that ships is made: from scratch, on drawn and simulated tables, on two CPU cores in two hours.

The order of the files is the order of the work: `scenes` renders pictures to disk, `language` words questions and
answers, `batches` reads and `augmentation` disturbs, `packing` lays many questions about one image into one
sequence, `teacher` and `aids` are the crutches of the first stages (absent at run time), `stages` and `clips` are
the losses of each stage, `loop` runs and resumes, `evaluation` measures, `export` writes what `load_model` reads.

    python -m sa2va_training.tiny STAGE key=value …
"""
