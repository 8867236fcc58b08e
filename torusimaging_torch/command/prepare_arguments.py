"""The arguments of the command prepare, and the text of its help."""

from __future__ import annotations

from torusimaging_torch.command.argument_groups import (
    CONDITIONS,
    Group,
    add_command,
    add_reading,
    read_count,
    read_units,
)

__all__ = ["add_prepare"]

_DESCRIPTION = """\
Turn a catalogue on the sky into stars in the Galaxy: from ra, dec, a distance or a parallax, proper
motions and a radial velocity to columns x, y, z, R, phi, v_R, v_phi, v_z, L_z and R_g, which the
other commands take. What was assumed about the Sun is printed, and kept with the table.

All that the catalogue has is kept. From parquet to parquet it may have any size; all other formats
(FITS, ECSV, CSV, HDF5, VOTable) are held in memory whole."""

_EPILOG = (
    """\
examples:
  torusimaging-torch prepare gaia.parquet --out stars.parquet --preset gaia-rvs --errors 64
  torusimaging-torch prepare allStar.fits --out stars.fits --preset apogee-gaia \\
      --where "abs(R - 8.3) < 1 kpc and abs(y) < 1 kpc and abs(R - R_g) < 1.5 kpc"
  torusimaging-torch prepare mine.csv --out stars.ecsv \\
      --columns ra=RAdeg,dec=DEdeg,distance=d,radial_velocity=RV --units d=pc

columns: without --preset and --columns Gaia's names are looked for: ra, dec, parallax, pmra (with
cos dec), pmdec, radial_velocity, their errors such as parallax_error, and their correlations such
as ra_dec_corr; also 'distance' and r_med_photogeo or r_med_geo, which go before parallaxes.

parallaxes: where a parallax is below five times its error its inverse says little: such stars get
nan, unless --distance-prior says what to expect of distances.

directions: x points from the Sun to the centre, where x = 0; y, phi, v_phi and L_z are positive
along the rotation; z is up. R_g solves R_g v_c = L_z, and is nan against the rotation.

presets:
  gaia-rvs      Gaia DR3 with radial velocities: ruwe < 1.4, non_single_star == 0 and
                rv_expected_sig_to_noise >= 5
  apogee-gaia   allStar of APOGEE DR17, with distances of Bailer-Jones (2021): not STAR_BAD in
                ASPCAPFLAG, no bad pixels, very bright neighbour or bad radial velocity in
                STARFLAG, no duplicate in EXTRATARG

"""
    + CONDITIONS
)


def add_prepare(commands: object) -> None:
    """Add the command prepare."""
    prepare = add_command(
        commands,
        "prepare",
        help="turn a catalogue on the sky into stars in the Galaxy",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add = prepare.add_argument
    add("stars", metavar="CATALOGUE", help="a file: FITS, ECSV, CSV, parquet, ...")
    add("--out", required=True, metavar="STARS", help="the table to write, such as stars.parquet")
    add("--overwrite", action="store_true", help="replace STARS if it exists")
    _add_reading(prepare.add_argument_group("what is where, and which stars"))
    _add_distances(prepare.add_argument_group("distances and errors"))
    _add_sun(prepare.add_argument_group("the Sun and the Galaxy"))


def _add_reading(group: Group) -> None:
    add = group.add_argument
    add("--preset", metavar="SURVEY", help="columns and cuts of a survey, see below")
    add(
        "--columns",
        type=read_units,
        metavar="WHAT=COL,...",
        help="other names of columns, such as ra=RAdeg,distance=d",
    )
    add_reading(group)
    add(
        "--where",
        action="append",
        default=[],
        metavar="COND",
        help="only stars with COND, which may be about new columns; repeat",
    )
    add("--no-cuts", action="store_true", help="do without the cuts of the preset")
    add("--prefix", default="", metavar="TEXT", help="before the names of the new columns")


def _add_distances(group: Group) -> None:
    add = group.add_argument
    add(
        "--distance-prior",
        metavar="exponential:L",
        help="distances are medians given the parallax and a density that falls with exp(-d / L), "
        "such as exponential:1.35kpc",
    )
    add(
        "--zero-point",
        default="0mas",
        metavar="ANGLE",
        help="subtracted from parallaxes, as --zero-point=-0.03mas (0)",
    )
    add(
        "--errors",
        type=read_count,
        default=0,
        metavar="N",
        help="add standard errors z_err, v_z_err, ..., and the correlation z_v_z_corr, from N "
        "draws of each star, with all errors and correlations that the catalogue has; 64 will do",
    )


def _add_sun(group: Group) -> None:
    add = group.add_argument
    add("--r-sun", default="8.275kpc", metavar="LENGTH", help="to the centre (8.275kpc)")
    add("--z-sun", default="20.8pc", metavar="LENGTH", help="above the midplane (20.8pc)")
    add(
        "--v-sun",
        default="8.4,251.8,8.4 km/s",
        metavar="U,V,W",
        help="inwards, along the rotation, up ('8.4,251.8,8.4 km/s')",
    )
    add(
        "--v-c",
        default="229 km/s",
        metavar="SPEED|FILE",
        help="of circular orbits: '229 km/s', the default, or a table with columns R and v_c",
    )
