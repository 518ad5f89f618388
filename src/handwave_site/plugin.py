"""The MkDocs plugin: its events call the other files, in order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import Abort
from mkdocs.livereload import LiveReloadServer
from mkdocs.plugins import BasePlugin, event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from handwave_site import bylines, markup, notebooks, pictures, policy, serving, settings, tooltips
from handwave_site.cache import write_atomically
from handwave_site.downloads import Downloads
from handwave_site.mathml import MathRenderer
from handwave_site.pages import Course, bring_up_to_date
from handwave_site.rendering import SiteExtension
from handwave_site.runner import Runner

THEME = Path(__file__).with_name("theme")
WORKER = "assets/handwave_site/iframe-worker.js"
MATH_STYLES = "assets/handwave_site/math.css"

log = logging.getLogger("mkdocs.plugins.handwave_site")


class HandwaveSitePlugin(BasePlugin[settings.Options]):
    """Runs every block of the pages before they are built; a stale page does not build."""

    def on_startup(self, *, command: str, dirty: bool) -> None:
        """Learn what is going on; MkDocs keeps the plugin alive across rebuilds."""
        self.serving = command == "serve"
        self.runner: Runner | None = None

    @event_priority(50)  # before mkdocs-jupyter reads its own options
    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        """Resolve the options; add to Markdown and to mkdocs-jupyter what they need."""
        root = Path(config.config_file_path).resolve().parent
        try:
            self.settings = settings.from_options(self.config, root)
            key = self.settings.stamp()
        except (OSError, ValueError) as error:
            raise Abort(str(error)) from None
        self.errors: list[str] = []
        if config.theme.name == "material":
            config.theme.dirs.insert(0, str(THEME))  # in front of its own
        offline = config.plugins.get("material/offline")
        if offline is not None and offline.config.enabled:
            config.extra["polyfills"] = [WORKER]  # lest it takes one from elsewhere
        config.extra_css.append(MATH_STYLES)
        tooltips.read_once(config.mdx_configs)
        self.extension = SiteExtension(
            MathRenderer(self.settings.cache / "math"), self._report_formula
        )
        config.markdown_extensions.append(self.extension)  # type: ignore[arg-type]
        config.watch.extend(str(folder) for folder in self.settings.watched)
        jupyter = config.plugins.get("mkdocs-jupyter")
        if jupyter is not None and self.settings.examples is not None:
            notebooks.prepare(jupyter.config, self.settings, key)
        return config

    def on_pre_build(self, *, config: MkDocsConfig) -> None:
        """Bring the pages up to date, figures included, before MkDocs looks for files."""
        self.runner = self.runner or Runner(self.settings.limits)
        if self.serving:
            self.runner.start()  # warm before the first edit
        try:
            docs = serving.shorten(Path(config.docs_dir))
            self.course = bring_up_to_date([docs], self.settings, self.runner)
            self.pictures = pictures.draw(self.settings, self.runner)
        except (OSError, ValueError) as error:
            raise Abort(str(error)) from None
        self._tell(self.course)

    @event_priority(50)  # before mkdocs-jupyter looks for notebooks
    def on_files(self, files: Files, *, config: MkDocsConfig) -> Files:
        """Add the examples, and the pictures of the site as a whole."""
        root = str(notebooks.folder(self.settings))
        for uri in notebooks.bring_in(self.settings):
            files.append(File(uri, root, config.site_dir, config.use_directory_urls))
        for uri, path in self.pictures.items():
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        return files

    def on_page_read_source(self, *, page: Page, config: MkDocsConfig) -> str | None:
        """While serving, show what blocks print now, and what is wrong, on the page itself."""
        if not self.serving or page.file.src_dir is None:
            return None
        return serving.with_problems(self.course, Path(str(page.file.abs_src_path)))

    def on_page_markdown(
        self, markdown: str, *, page: Page, config: MkDocsConfig, files: Files
    ) -> None:
        """Tell the Markdown extension which page comes next, and its neighbours what it asks."""
        self.extension.begin(Path(str(page.file.abs_src_path)))
        page.meta.setdefault("question", bylines.opening_question(markdown))

    def on_page_content(self, html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
        """Take an example's page into the site's own style; offer a lesson as a notebook."""
        if page.file.src_uri.endswith(".ipynb"):
            html = notebooks.finish(html, page.file, files, self.settings)
            page.edit_url = notebooks.edit_url(page, self.settings, Path(config.docs_dir))
        cache = self.settings.cache / "downloads"
        downloads = Downloads(self.course, files, cache, config.site_url or "")
        offer = downloads.offer(page.file)
        byline = [f"{bylines.minutes(page.markdown or '')} min read", offer] if offer else []
        return markup.with_copy_buttons(markup.with_byline(html, byline))

    @event_priority(-100)  # after whatever else writes into the pages
    def on_post_build(self, *, config: MkDocsConfig) -> None:
        """Fail the build for what only rendering could find; put the policy into every page."""
        site = Path(config.site_dir)
        write_atomically(site / MATH_STYLES, self.extension.math.stylesheet().encode())
        if self.config.policy:
            # What `mkdocs serve` adds to each page to reload it, no policy would allow.
            self.errors += policy.problems(site) if self.serving else policy.secure(site)
        if self.errors and not self.serving:
            raise Abort("\n".join(self.errors))
        for error in self.errors:
            log.warning(error)
        self.errors = []

    def on_serve(
        self, server: LiveReloadServer, /, *, config: MkDocsConfig, builder: Any
    ) -> LiveReloadServer:
        """Let one edit cause one rebuild."""
        serving.ignore_figures(server)
        return server

    def on_shutdown(self) -> None:
        """End the warm parent."""
        if self.runner is not None:
            self.runner.close()

    def _tell(self, course: Course) -> None:
        """Stop the build at the first sight of a problem; while serving, go on and show it."""
        problems = [str(problem) for problem in course.problems]
        if problems and not self.serving:
            raise Abort("\n".join(problems))
        for problem in problems:
            log.warning(problem)

    def _report_formula(self, tex: str, message: str) -> None:
        assert self.extension.page is not None
        error = serving.locate(self.extension.page, tex, message)
        self.errors.append(error)
