"""LoRAs, textual inversions and ControlNets: registered by name for a model of the store."""
