"""AutoScalingGroups at work: Instances are started, measured, scaled, replaced and ended.

Part of the control plane that knows neither it nor the data plane: what targets are registered with
and whose counters are read is handed in. `group` is the entry.
"""
