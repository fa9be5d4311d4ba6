"""Texts that a model can recall: their vectors and words in this device's store, searched on the GPU.

Each word stands for one thing:

    namespace   texts that are searched together, with one embedder; a folder in the store "memory" (namespace.py)
    piece       a text to be stored, and where it comes from (records.py); a document becomes many (chunks.py)
    record      a piece that is stored: with an id, and the row of its vector
    row         the place of a vector; rows are never used twice until the namespace is written anew
    journal     says which rows and texts are whole, a line a batch; it is written last (journal.py)
    generation  all files of a namespace; writing it anew makes the next one

Reading order: records.py, journal.py, namespace.py (the store); vectors.py, gpu_search.py, words.py, ranking.py (the
search); documents.py and its readers, chunks.py (what comes in); context.py (what a model gets); memory.py (all of
it together), sync.py and messages.py (its other fronts).
"""
