"""XLM-RoBERTa, RoBERTa and CamemBERT as text encoders: bge-m3, multilingual-e5-base and -large, and similar models.

Papers: Conneau et al. 2019, arXiv:1911.02116; Liu et al. 2019, arXiv:1907.11692. Reference: transformers,
models/xlm_roberta/modeling_xlm_roberta.py. BERT's layers; the first positions of the table, up to the padding token's
id, are for padding, so a text begins behind them. A cross-encoder (bge-reranker) has a classifier. Tried with: tiny
random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.classifier import read_classifier
from py_engine.blocks.encoder import EncoderModel
from py_engine.models import bert
from py_engine.sources.config import Config, require_int
from py_engine.weights.store import WeightStore

ALIASES = ("xlm-roberta", "roberta", "camembert")


def build(config: Config, store: WeightStore) -> EncoderModel:
    """The model. Raises ModelError."""
    first = require_int(config, "pad_token_id", 0, 1 << 20, 1) + 1
    model = bert.encoder(config, store, "roberta.", first_position=first)
    head = read_classifier(
        config, store, model.hidden_size, "classifier.dense", "classifier.out_proj"
    )
    return replace(model, classifier=head)
