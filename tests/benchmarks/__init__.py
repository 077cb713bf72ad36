"""Speed, shown beside a floor or a peer that is measured in the same run; `make bench`. Nothing is asserted in time."""
