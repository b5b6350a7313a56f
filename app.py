"""Entry of the app: ``streamlit run app.py``."""

from __future__ import annotations

from pages.components.navigation import run

run()
