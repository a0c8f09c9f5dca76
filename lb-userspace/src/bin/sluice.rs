//! The one binary: agent and command line.

fn main() -> std::process::ExitCode {
    lb_userspace::cli::main()
}
