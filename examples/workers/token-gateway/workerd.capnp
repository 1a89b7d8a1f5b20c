using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    ( name = "main", worker = (
      modules = [ ( name = "worker", esModule = embed "worker.mjs" ) ],
      compatibilityDate = "2026-11-01",
      bindings = [
        ( name = "KV", kvNamespace = "kvd" ),
        ( name = "SERVICE", service = "service" ),
        ( name = "ADMIN_TOKEN", text = "change me" )
      ]
    ) ),
    ( name = "service", worker = (
      modules = [ ( name = "service", esModule = embed "service.mjs" ) ],
      compatibilityDate = "2026-11-01"
    ) ),
    ( name = "kvd", external = ( address = "127.0.0.1:8379", http = (
      injectRequestHeaders = [ ( name = "X-KV-Namespace", value = "token-gateway" ) ]
    ) ) )
  ],
  sockets = [ ( name = "http", address = "127.0.0.1:8787", http = (), service = "main" ) ]
);
