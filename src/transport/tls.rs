//! TLS by rustls, with the ring provider named explicitly.
//!
//! A provider that is looked up in the process makes `awc::Client::new()` panic when there is none or
//! when another crate brought a second one.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// WebSocket upgrades need HTTP/1.1; awc's default offers h2 first, and the upgrade fails.
const ALPN: &[u8] = b"http/1.1";

/// The configuration to dial with: the user's, or the webpki roots. ALPN is always HTTP/1.1.
pub(crate) fn client_config(custom: Option<&Arc<ClientConfig>>) -> Arc<ClientConfig> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match custom {
        Some(config) if config.alpn_protocols == [ALPN] => Arc::clone(config),
        Some(config) => {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![ALPN.to_vec()];
            Arc::new(config)
        }
        None => Arc::clone(DEFAULT.get_or_init(default_config)),
    }
}

fn default_config() -> Arc<ClientConfig> {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        // The ring provider has suites for every version that this build of rustls knows.
        Err(_) => unreachable!("ring supports TLS 1.2 and 1.3"),
    };
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpn_is_http_1_1_whatever_the_user_gave() {
        assert_eq!(client_config(None).alpn_protocols, [ALPN]);
        let mut custom = ClientConfig::clone(&client_config(None));
        custom.alpn_protocols = vec![b"h2".to_vec()];
        assert_eq!(
            client_config(Some(&Arc::new(custom))).alpn_protocols,
            [ALPN]
        );
    }
}
