//! The operator's tool; see the library `tool`.

fn main() -> std::process::ExitCode {
    tool::main()
}
