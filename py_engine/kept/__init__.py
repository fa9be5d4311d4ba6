"""What stays on this device between visits: the files of models, and what was quantised of them.

Each word stands for one thing:

    store         files on this device, whatever holds them: a folder, OPFS, CacheStorage (host/store.py)
    blob          the bytes of one file in a store, named by their hash
    manifest      what a store holds of one repository at one commit (manifest.py); "complete" after a finished load
    Stored        one file of a manifest: its blob, and which bytes of it are here
    index         a complete manifest, written down; the journal stands for it until then (journal.py)
    derived file  weights as a load has quantised them (derived_file.py)
    library       all manifests of one store: listed, deleted, made room among (library.py)
    repository    the files of one model, as a load reads them: from the store or from the hub (repository.py)
    writer        what one load writes to the store (writer.py)
    inventory     the models in a store, as people see them (inventory.py)

"Kept" always means: on this device, by this folder. A cache is something else here: rows of attention in GPU memory
(blocks/kv_cache.py). So is weights/store.py, whose WeightStore has a model's GPU buffers. The command line's `cache`
subcommand shows the inventory, under the name that other tools have for it.
"""
