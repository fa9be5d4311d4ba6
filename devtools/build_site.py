"""./dev build OUT: writes the page as a folder of plain files, for any folder of any static host.

The files are those of the shell (devtools/site.py), sw.js and a config.json with the hub's models; HF_ENDPOINT names
another hub. Weights come from the hub. If the host sends no content security policy, the service worker adds it, from
a user's second visit on.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path

from devtools.offers import HUB_MODELS, hub_models
from devtools.site import INDEX, Site
from py_engine.errors import HubError
from py_engine.host import open_io
from py_engine.sources.hub_settings import hub_settings


def build(site: Site, out: Path) -> int:
    """Write the files into `out`, over existing ones; returns how many. Raises FileNotFoundError when one is
    missing."""
    paths = [*site.shell_paths(), "sw.js"]
    for path in paths:
        data = site.read(path)
        if data is None:
            raise FileNotFoundError(f"the page's file {path} is missing: run ./dev setup")
        file = out / ("index.html" if path == INDEX else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (out / "config.json").write_text(json.dumps(site.config()))
    return len(paths) + 1


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="./dev build", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder, made when it is not there")
    arguments = parser.parse_args()
    try:
        with closing(open_io()) as io:
            hub = hub_settings(io).endpoint  # without a password: config.json is public
    except HubError as error:
        print(error, file=sys.stderr)
        return 1
    models = hub_models(hub) or HUB_MODELS  # without sizes where the hub does not answer
    site = Site(hub=hub, offered=[{**m, "default": not n} for n, m in enumerate(models)])
    count = build(site, arguments.out)
    print(f"{arguments.out}: {count} files, version {site.shell()['version']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
