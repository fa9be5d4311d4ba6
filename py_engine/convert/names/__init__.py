"""One file a GGUF architecture, found by its name (`-` is `_` in it): GGUF's tensor names -> Hugging Face's.

To add one: a file with `FAMILY` (see `family.Family`). Which names an architecture has stands in the `gguf` package
(gguf/constants.py, MODEL_TENSORS; gguf/tensor_mapping.py); which rows its converter reorders and what it adds to norms,
in llama.cpp's conversion/. Cases in tests/goldens/make_convert_names.py have tests hold it against transformers: names,
shapes and values (tests/test_convert_names.py), and the logits of what was converted (tests/test_convert_logits.py).
"""
