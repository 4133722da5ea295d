"""Studies on Ray Tune. Its modules import Ray, so the settings of an own Ray are made before."""

from fedray.backends.ray.own_ray import protect

protect()
