//! An authority, and a certificate by it for servers on loopback and for their clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Files of TLS, in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority.
    pub ca: PathBuf,
    /// For `127.0.0.1` and `localhost`, as server and as client.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Writes the files of a new authority into a folder; they begin with the name.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of another name than what it signs, or OpenSSL takes that for signed by itself.
        authority.distinguished_name.push(DnType::CommonName, format!("authority {name}"));
        let ca_key = KeyPair::generate()?;
        let ca = authority.self_signed(&ca_key)?;
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let issuer = Issuer::new(authority, ca_key);
        let cert = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let write = |what: &str, label: &str, der: &[u8]| -> Result<PathBuf> {
            let path = folder.join(format!("{name}-{what}.pem"));
            fs::write(&path, pem(label, der))?;
            Ok(path)
        };
        Ok(Self {
            ca: write("ca", "CERTIFICATE", ca.der())?,
            cert: write("cert", "CERTIFICATE", cert.der())?,
            key: write("key", "PRIVATE KEY", &key.serialize_der())?,
        })
    }
}

/// RFC 7468 2.
fn pem(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        pem.push_str(&BASE64.encode(line));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
