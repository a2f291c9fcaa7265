"""What several tests stand on: brokers, processes, ports and waiting."""
