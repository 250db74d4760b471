"""`evalflow review`: a page on which people answer the queue.

Keep out: the page (``web/``).
"""

from contextlib import suppress
from typing import Annotated

import typer

from evalflow.adapters.home import open_home
from evalflow.cli.terminal import AsJson, HomeOption, err, out, print_json, shown

app = typer.Typer()


@app.command(epilog="Example: evalflow review --reviewer ann")
def review(
    reviewer: Annotated[
        str | None, typer.Option(help="Who answers, in browsers that have not been told. Default: the page asks.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on, 0 for any that is free. Default: review.port."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; any but this machine's own asks for a token. Default: review.host."),
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Serve the review page: the queue, one trace after the other, answers by keyboard. Ctrl-C ends it.

    With --json the address is printed as a document as soon as the page answers.
    """
    from evalflow.web.server import bound

    workspace = open_home(home).prepare()
    settings = workspace.settings.review
    with bound(
        workspace,
        host or settings.host,
        settings.port if port is None else port,
        " ".join((reviewer or "").split()) or None,
    ) as page:
        if as_json:
            print_json({"url": page.url, "home": str(workspace.path), "asks_for_token": page.has_token})
        else:
            out.print(
                f"The review page of {shown(str(workspace.path))} is at [bold]{shown(page.url)}[/bold]", soft_wrap=True
            )
            if page.has_token:
                out.print(
                    "Whoever has this link can read traces and answer; it is shown once. Use it over a network that you "
                    "trust, or through an ssh tunnel.",
                    soft_wrap=True,
                )
            out.print("Ctrl-C ends it; answers and drafts are kept as they are given.")
        with suppress(KeyboardInterrupt):
            page.serve()
        err.print("Stopped; every answer is kept.")
