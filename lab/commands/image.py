"""``lab image``: images of emulated Linux devices."""

from __future__ import annotations

import click

from lab.commands.table import echo_table
from lab.paths import cache_dir
from lab.units import format_quantity


@click.group()
def image() -> None:
    """Images of emulated Linux devices, built of Debian packages."""


@image.command()
@click.argument("kinds", nargs=-1, type=click.Choice(["pi", "pi-python", "jetson", "phone"]))
@click.option("--newest", is_flag=True, help="Ask Debian for newer packages than those in the cache.")
def build(kinds: tuple[str, ...], newest: bool) -> None:
    """Build the images KINDS (default: those of the emulated bench: pi, jetson, phone) unless they are in the cache.

    Packages are downloaded once, from the Debian mirror this computer uses; nothing is installed on it. For a computer
    without the network, copy the folder `linux` of the cache there.
    """
    from lab.emulators.linux.image import image as build_image
    from lab.emulators.linux.packages import linux_cache
    from lab.emulators.linux.recipes import RECIPES

    for kind in RECIPES:
        if kind in (kinds or ("pi", "jetson", "phone")):
            built = build_image(kind, cache_dir(), newest=newest)
            size = format_quantity(built.size_bytes, "B")
            click.echo(f"{kind}: {built.digest[:16]}, Linux {built.kernel_version}, {size}")
    click.echo(f"cache: {linux_cache(cache_dir())}")


@image.command("list")
def list_images() -> None:
    """List the images in the cache."""
    from lab.emulators.linux.image import built_image, images
    from lab.emulators.linux.packages import linux_cache

    found = images(cache_dir())
    rows = [("IMAGE", "DIGEST", "KERNEL", "PACKAGES", "SIZE", "STATE")]
    for one in found:
        current = built_image(one.kind, cache_dir())
        state = "in use" if current is not None and current.kernel == one.kernel else "old"
        size = format_quantity(one.size_bytes, "B")
        rows.append((one.kind, one.digest[:16], one.kernel_version, str(len(one.packages)), size, state))
    echo_table(rows)
    if not found:
        click.echo("none yet: `lab image build` builds them")
    click.echo(f"\ncache: {linux_cache(cache_dir())}")


@image.command("remove-old")
def remove_old_images() -> None:
    """Remove images that newer ones have replaced, and what was saved of guests that ran them."""
    from lab.emulators.linux.saved import remove_old

    click.echo(f"{format_quantity(remove_old(cache_dir()), 'B')} are free again")
