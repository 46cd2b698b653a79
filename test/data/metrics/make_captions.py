# SPDX-License-Identifier: Apache-2.0
"""Makes captions.json: captions with the numbers of pycocoevalcap 1.2 (Java: PTB tokenizer, meteor-1.5.jar) and NLTK.

pip install --target /tmp/reference --no-deps pycocoevalcap==1.2 nltk==3.10.4 regex joblib click
PYTHONPATH=/tmp/reference python test/data/metrics/make_captions.py
"""

from __future__ import annotations

import json
from pathlib import Path

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

CAPTIONS = {
    "0": ("A red mug stands left of the blue box.", ["The red mug is left of a blue box.", "A mug beside a box."]),
    "1": ("a dog running", ["A brown dog runs across the grass.", "The dog is running in a field."]),
    "2": ("Two people are sitting at a table, eating pizza.", ["Two people eat pizza at a table."]),
    "3": ("It's the man's well-known hat; don't touch!", ["It is the well-known hat of the man."]),
    "4": ("the the the the", ["The cat is on the mat."]),
    "5": ("", ["An empty answer should score nothing."]),
    "6": ("Three white plates and a black bottle on a wooden table",
          ["Three white plates and a black bottle on a wooden table."]),
    "7": ("A boy throws the ball.", ["A girl catches a frisbee in the park.", "Somebody plays frisbee outside."]),
    "8": ("The woman (in a coat) holds 3.5 kg of apples, e.g. green ones.",
          ["A woman in a coat is holding 3.5 kg of green apples."]),
    "9": ("kids playing with toys near the window",
          ["Children play with a toy by a window.", "Kids playing near windows."]),
    "10": ("A picture of a street at night with many cars and \"neon\" lights",
           ["Cars on a street with neon lights at night."]),
    "11": ("box blue a", ["a blue box"]),
}  # fmt: skip


def main() -> None:
    """Write the file beside this script."""
    references = {
        key: [{"caption": text} for text in texts] for key, (_, texts) in CAPTIONS.items()
    }
    predictions = {key: [{"caption": text}] for key, (text, _) in CAPTIONS.items()}
    tokenizer = PTBTokenizer()
    references, predictions = tokenizer.tokenize(references), tokenizer.tokenize(predictions)
    cider, ciders = Cider().compute_score(references, predictions)
    meteor, meteors = Meteor().compute_score(references, predictions)
    data = {
        "made_with": "pycocoevalcap 1.2 (meteor-1.5.jar and PTB tokenizer in Java 17); see make_captions.py",
        "captions": [
            {
                "prediction": text,
                "references": texts,
                "prediction_tokens": predictions[key][0],
                "reference_tokens": references[key],
                "cider": float(ciders[i]),
                "meteor": float(meteors[i]),
            }
            for i, (key, (text, texts)) in enumerate(CAPTIONS.items())
        ],
        "cider": float(cider),
        "meteor": float(meteor),
    }
    target = Path(__file__).with_name("captions.json")
    target.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
