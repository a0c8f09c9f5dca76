//! An OCI image as one file (OCI image spec 1.1, image layout in a tar archive), with Docker's own index beside it.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Where the program is.
const PROGRAM: &str = "sluice";

/// An image with this program and nothing else.
pub(super) fn archive(program: &[u8], tag: &str) -> Result<Vec<u8>> {
    let layer = tar(&[(PROGRAM, program, 0o755)])?;
    let layer_digest = digest(&layer);
    // Not compressed, the layer is its own diff id.
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            "Cmd": ["run"],
            "Labels": {
                "org.opencontainers.image.title": "sluice",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    });
    let config = serde_json::to_vec(&config)?;
    let config_digest = digest(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut pointer = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    pointer["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag.rsplit_once(':').map_or("latest", |(_, version)| version),
        "io.containerd.image.name": tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [pointer],
    });
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    let docker = json!([{"Config": blob(&config_digest), "RepoTags": [tag], "Layers": [blob(&layer_digest)]}]);
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", &serde_json::to_vec(&index)?, 0o644),
        ("manifest.json", &serde_json::to_vec(&docker)?, 0o644),
        (&blob(&config_digest), &config, 0o644),
        (&blob(&digest(&manifest)), &manifest, 0o644),
        (&blob(&layer_digest), &layer, 0o644),
    ])
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", digest(content)), "size": content.len()})
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Files of root's, of no time.
fn tar(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, *content)?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn untar(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    #[test]
    fn every_digest_leads_to_what_it_says() {
        let files = untar(&archive(b"program", "example.org/sluice:1.2").unwrap());
        let read = |pointer: &Value| {
            let digest = pointer["digest"].as_str().unwrap().trim_start_matches("sha256:");
            let content = files[&format!("blobs/sha256/{digest}")].clone();
            assert_eq!(
                (super::digest(&content), content.len() as u64),
                (digest.to_owned(), pointer["size"].as_u64().unwrap())
            );
            content
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
        let layer = read(&manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", super::digest(&layer))
        );
        assert_eq!(config["config"]["Entrypoint"][0], "/sluice");
        assert_eq!(
            untar(&layer),
            BTreeMap::from([("sluice".to_owned(), b"program".to_vec())]),
            "nothing else"
        );
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"][0], "example.org/sluice:1.2");
        assert!(files.contains_key(docker[0]["Config"].as_str().unwrap()));
        assert_eq!(
            index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
            "1.2"
        );
        assert_eq!(files.len(), 6, "nothing that nothing leads to");
    }

    #[test]
    fn the_same_program_makes_the_same_archive() {
        let once = archive(b"program", "sluice:1").unwrap();
        assert_eq!(once, archive(b"program", "sluice:1").unwrap());
        assert_ne!(once, archive(b"Program", "sluice:1").unwrap());
    }
}
