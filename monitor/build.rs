//! Lets the program find libduckdb without LD_LIBRARY_PATH: beside itself, in `../lib` of an
//! installation, and where it was linked from.

fn main() {
    println!("cargo:rerun-if-env-changed=DUCKDB_LIB_DIR");
    if !cfg!(target_os = "linux") && !cfg!(target_os = "macos") {
        return;
    }
    let origin = if cfg!(target_os = "macos") { "@loader_path" } else { "$ORIGIN" };
    for folder in ["", "/../lib", "/../lib/holdfast"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{origin}{folder}");
    }
    if let Some(folder) = std::env::var_os("DUCKDB_LIB_DIR") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::path::Path::new(&folder).display());
    }
}
