//! The verbs and their help texts, as a person reads them in `cargo xtask --help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Set up, build, try, test and check Sluice.
///
/// On a fresh machine `cargo xtask demo` is all it takes: every verb first sees to what it needs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Never install anything: say what is missing and how to install it by hand, then stop
    #[arg(long, global = true)]
    pub(crate) no_install: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Find out how this machine can compile eBPF, and install what is missing
    ///
    /// Two ways are known. The distribution's rustc with its precompiled core library for BPF is taken where there are
    /// packages for it; otherwise rustup's nightly compiles that library from source. Both link with bpf-linker, which
    /// goes to target/toolchain. The system tools that the tests use are installed too. Running it again costs nothing.
    Setup,

    /// Compile the kernel programs to target/bpf/*.bpf.o
    BuildEbpf,

    /// Compile the kernel programs and the agent to target/release/sluice
    Build,

    /// Build, then show the load balancer at work in network namespaces of its own (as root)
    Demo(PassedOn),

    /// Build, then run the tests: host, packet and lab
    ///
    /// Ends with the line `N passed, N failed, N skipped`, summed over everything that ran; above it are the failed
    /// tests by name and the reason of every skip. The packet and lab tests load programs into the kernel: they need
    /// root, and ask for it through sudo when started without.
    Test(TestArgs),

    /// Build, then measure: every figure in the README comes from one of these benches (as root)
    Bench(PassedOn),

    /// Build, then play random packets on the host and through the loaded programs until one breaks a rule (as root)
    ///
    /// Ten minutes on the host and a million packets in the kernel, unless told. `cargo xtask test` has short versions.
    Fuzz(PassedOn),

    /// Build, then do everything to a node under load, at random, that must not cost a connection (as root)
    ///
    /// Three minutes, unless told; with `-- --seed N` the same things again. `cargo xtask test` has a short version.
    Chaos(PassedOn),

    /// Build a static agent and write it as an OCI image, without a container engine
    ///
    /// The archive is what `skopeo copy oci-archive:FILE …`, `podman load` and `docker load` take. Nothing but the program is in it,
    /// and the same program always makes the same archive.
    Image(ImageArgs),

    /// Check formatting, clippy (warnings are errors), lock files and the tree rules
    Lint,

    /// Check the tree rules alone: file heads and sizes, unsafe, who may name which crate, names the kernel can hold
    Tidy,

    /// Everything a change has to pass: set-up, lint and all tests, with the time each step took
    Ci,
}

#[derive(Debug, Args)]
pub(crate) struct PassedOn {
    /// Passed on as they are; `-- --help` shows what there is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Where the archive goes
    #[arg(long, value_name = "FILE", default_value = "target/sluice.oci.tar")]
    pub(crate) output: PathBuf,

    /// The name under which it is loaded
    #[arg(long, value_name = "NAME", default_value = concat!("sluice:", env!("CARGO_PKG_VERSION")))]
    pub(crate) tag: String,
}

#[derive(Debug, Default, Args)]
pub(crate) struct TestArgs {
    /// Run only the tests whose name contains this
    pub(crate) filter: Option<String>,

    /// The unit tests and scripts: no root, nothing is loaded
    #[arg(long)]
    pub(crate) host: bool,

    /// Single packets through the loaded programs: as root, without network devices
    #[arg(long)]
    pub(crate) packet: bool,

    /// Network namespaces with real sockets and the real stack: as root, one at a time
    #[arg(long)]
    pub(crate) lab: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_of_demo_and_bench_pass_through() {
        let cli = Cli::try_parse_from(["xtask", "bench", "packets", "--seconds", "3"]).unwrap();
        let Verb::Bench(passed_on) = cli.verb else {
            panic!("not bench: {:?}", cli.verb)
        };
        assert_eq!(passed_on.args, ["packets", "--seconds", "3"]);
    }

    #[test]
    fn no_install_is_understood_after_the_verb_too() {
        assert!(
            Cli::try_parse_from(["xtask", "test", "--host", "--no-install"])
                .unwrap()
                .no_install
        );
    }
}
