"""The daemon among its peers: replication meets the store, the hub and the clients here."""
