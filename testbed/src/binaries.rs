//! Where the programs lie that the testbed starts.

use crate::Error;
use std::path::{Path, PathBuf};

/// The folder with the programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The folder that HOLDFAST_BIN_DIR names; else that of the running program, or, for a test
    /// executable in `deps`, the one above.
    pub fn find() -> Result<Binaries, Error> {
        if let Some(folder) = std::env::var_os("HOLDFAST_BIN_DIR") {
            return Ok(Binaries { folder: folder.into() });
        }
        let own = std::env::current_exe().map_err(Error::io("find the running program"))?;
        let mut folder = own.parent().unwrap_or(Path::new(".")).to_owned();
        if folder.file_name().is_some_and(|name| name == "deps") {
            folder.pop();
        }
        Ok(Binaries { folder })
    }

    /// The programs in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Binaries {
        Binaries { folder: folder.into() }
    }

    /// The path of a program; an error where it is not there.
    pub fn path(&self, name: &'static str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::ProgramMissing { name, folder: self.folder.clone() })
        }
    }
}
