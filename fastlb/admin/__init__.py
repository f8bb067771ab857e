"""What an operator sees and changes over HTTP: overview, series, JSON API, metrics, the web page's server.

Knows the model and what is handed to it (`reading.Source`, the commands); no plane, no counter.
"""
