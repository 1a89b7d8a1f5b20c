using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    ( name = "main", worker = (
      modules = [ ( name = "worker", esModule = embed "worker.mjs" ) ],
      compatibilityDate = "2026-11-01",
      bindings = [ ( name = "KV", kvNamespace = "kvd" ) ]
    ) ),
    ( name = "kvd", external = ( address = "127.0.0.1:8379", http = (
      injectRequestHeaders = [ ( name = "X-KV-Namespace", value = "feature-flags" ) ]
    ) ) )
  ],
  sockets = [ ( name = "http", address = "127.0.0.1:8787", http = (), service = "main" ) ]
);
