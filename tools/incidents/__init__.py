"""``make incidents``: eight incidents on the real components, each printed with its times (docs/incidents.md).

Nothing here knows the answer: a scenario brings a cause about, runs the product's own steps hour by hour, and reports
what they said and did, also where they said nothing.
"""
