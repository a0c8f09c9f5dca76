//! Who we are: root, somebody who may ask sudo, or neither. Installing packages and loading programs need root.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    Root,
    Sudo,
    None,
}

impl Privilege {
    pub(crate) fn find() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else if process::find_program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// What stands before a command that needs root, and the same for messages.
    pub(crate) fn prefix(self) -> &'static [&'static str] {
        if self == Self::Sudo { &["sudo"] } else { &[] }
    }

    /// A command as root; `purpose` ends the sentence "root is needed to …".
    pub(crate) fn command(self, program: impl AsRef<OsStr>, purpose: &str) -> Result<Command> {
        self.require(purpose)?;
        if self == Self::Sudo {
            let mut command = Command::new("sudo");
            command.arg(program);
            return Ok(command);
        }
        Ok(Command::new(program))
    }

    /// An error where root is out of reach.
    pub(crate) fn require(self, purpose: &str) -> Result<()> {
        if self == Self::None {
            bail!(
                "root is needed to {purpose}; this is user {}, and there is no sudo. Run it as root",
                rustix::process::geteuid().as_raw()
            );
        }
        Ok(())
    }

    /// How it will be done, for messages: "as root" or "through sudo".
    pub(crate) fn how(self) -> &'static str {
        match self {
            Self::Root => "as root",
            Self::Sudo => "through sudo",
            Self::None => "without root",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_stands_before_the_command() {
        let command = Privilege::Sudo.command("apt-get", "install packages").unwrap();
        assert_eq!(process::shown(&command), "`sudo apt-get`");
        let command = Privilege::Root.command("apt-get", "install packages").unwrap();
        assert_eq!(process::shown(&command), "`apt-get`");
    }

    #[test]
    fn without_either_the_error_says_what_for() {
        let error = Privilege::None
            .command("apt-get", "install packages")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("root is needed to install packages"), "{error}");
    }
}
