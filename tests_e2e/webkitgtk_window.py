#!/usr/bin/python3
"""A WebKitGTK window that WebKitWebDriver starts for test_webkitgtk.py. It runs in the system's Python, because PyPI
has no wheel of PyGObject. MiniBrowser's automation mode stores nothing on disk. This window has its profile in the
folder JERBOA_PROFILE, and turns on navigator.storage and OPFS, which WebKitGTK 2.50 has but leaves off.
"""

import os
from typing import Any

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402

FEATURES = ("StorageAPI", "StorageAPIEstimate", "FileSystem", "AccessHandle")
PROFILE = os.environ["JERBOA_PROFILE"]


def settings() -> Any:
    """The default settings, with FEATURES turned on."""
    chosen = WebKit2.Settings()
    known = WebKit2.Settings.get_all_features()
    for feature in map(known.get, range(known.get_length())):
        if feature.get_identifier() in FEATURES:
            chosen.set_feature_enabled(feature, True)
    return chosen


def main() -> None:
    """Run until the driver's session ends."""
    storage = WebKit2.WebsiteDataManager(
        base_data_directory=f"{PROFILE}/data", base_cache_directory=f"{PROFILE}/cache"
    )
    context = WebKit2.WebContext(website_data_manager=storage)
    context.set_automation_allowed(True)
    window = Gtk.Window()
    window.connect("destroy", Gtk.main_quit)

    def open_view(session: Any) -> Any:
        view = WebKit2.WebView(
            web_context=context, settings=settings(), is_controlled_by_automation=True
        )
        window.add(view)
        window.show_all()
        return view

    def started(context: Any, session: Any) -> None:
        name = WebKit2.ApplicationInfo()
        name.set_name("jerboa-tests")
        session.set_application_info(name)
        session.connect("create-web-view", open_view)

    context.connect("automation-started", started)
    Gtk.main()


main()
