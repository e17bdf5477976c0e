"""How exact `decompose` is: compared with torch's own decompositions on many programs."""
